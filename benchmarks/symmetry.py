"""What imposing a symmetry gains, and what keeps it from being imposed where there is none.

Beta-galactosidase (D2) without its symmetry, with it, and with whatever is found ("auto"); F1-ATPase, which is nearly
threefold, without and under "auto": each seen once, from a random start.

  imposed    the group, and at how many particles
  FSC 0.5    where the map falls below 0.5 against the truth, angstrom; 0.143 likewise
  reported   what the halves say, FSC 0.143
  error      median angle to the true poses of the last 1,000 particles, degrees, over equivalent poses
  core-s     processor seconds of the engine

Before that, at every tenth batch once the search has settled: how well each map without symmetry agrees with itself
under the group at low resolution, and what its copies hold of what the halves share.

And a group that is imposed whatever the map says, once on a particle that has it and once on one that only nearly has:

  imposed at  particles seen
  gain        nats an image that a map without it gains on images that it has not seen, at the last judgement
  of          log-likelihood of an image with it, nats
  taken back  particles seen when it was, or "no"

Example: python -m benchmarks.symmetry --particles 7000
         python -m benchmarks.symmetry --part believed --particles 14000 --snr 0.1 0.05 0.02
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import (
    Specimen,
    batches,
    beta_galactosidase,
    f1_atpase,
    parser,
    print_machine,
    print_table,
    write_json,
)
from benchmarks.made_specimens import cage
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.assess.fsc_curves import fsc_curves
from streamrecon.assess.half_maps import make_mask
from streamrecon.assess.symmetry_search import locate_symmetry
from streamrecon.assess.symmetry_trust import held_between_halves, trusted_symmetry
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.geometry.orientation import Orientation
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.results import Snapshot
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.symmetry import SymmetryFinder

_LAST = 10  # batches whose poses are held against the truth
_EVERY = 10
_SIGNAL = 0.5


def agreement(snapshot: Snapshot, group: str) -> dict[str, Any]:
    """Return how a map without symmetry fares under a group: at low resolution, and between the halves."""
    voxel = snapshot.voxel_size_angstrom
    halves = (snapshot.half_a, snapshot.half_b)
    mask = make_mask("auto", *halves, voxel)
    fsc = fsc_curves(*halves, voxel, mask).corrected
    found = locate_symmetry((halves[0] + halves[1]) / 2 * mask, group, fsc)
    end = int(np.flatnonzero(fsc[1:] < _SIGNAL)[0])
    held = held_between_halves(halves[0] * mask, halves[1] * mask, group, found.placement, end)
    return {
        "group": group,
        "particles": snapshot.status.particles_seen,
        "FSC 0.5 (A)": len(mask) * voxel / end,
        "correlation": found.correlation,
        "held": held,
    }


def run(
    specimen: Specimen, asked: str, group: str, particles: int, snr: float, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Reconstruct once; return the row of the table, and how ``group`` fared on the way if none was asked for."""
    box, pixel = len(specimen.volume), specimen.pixel_size_angstrom
    settings = EngineSettings(symmetry=asked)
    engine = Engine(settings, box, pixel, CpuBackend(), seed, find_symmetry=trusted_symmetry)
    imposed, found, true = "", [], []
    judged: list[dict[str, Any]] = []
    busy = 0.0
    for number, (batch, rotation) in enumerate(batches(specimen, particles, snr, seed)):
        began = time.process_time()
        found.append(engine.fold(batch).rotation)
        busy += time.process_time() - began
        true.append(rotation)
        status = engine.status
        if not imposed and status.symmetry != "C1":
            imposed = f"{status.symmetry} at {status.particles_seen}"
        if asked == "C1" and status.stage != "searching" and number % _EVERY == 0:
            judged.append(agreement(engine.snapshot(), group))
    snapshot = engine.snapshot()
    aligned = align_volumes(specimen.volume, snapshot.volume, pixel)
    fsc = fsc_between(specimen.volume, aligned.volume, pixel)
    errors = pose_errors(
        np.concatenate(true[-_LAST:]), np.concatenate(found[-_LAST:]), n_symmetric=specimen.n_symmetric
    )
    row = {
        "specimen": specimen.name,
        "asked": asked,
        "imposed": imposed or "none",
        "FSC 0.5 (A)": fsc.resolution_05_angstrom,
        "FSC 0.143 (A)": fsc.resolution_0143_angstrom,
        "reported (A)": snapshot.resolution_angstrom,
        "error (deg)": errors.median_degrees,
        "core-s": busy,
    }
    return row, judged


def believed(group: str) -> SymmetryFinder:
    """Return what imposes a group about the axes that fit best, however badly, once."""

    def find(
        half_a: NDArray[np.floating],
        half_b: NDArray[np.floating],
        voxel_size_angstrom: float,
        asked: str,  # noqa: ARG001  this one believes whatever was asked
        *,
        at_least: float = 0.0,
    ) -> tuple[Orientation, str]:
        if at_least:
            return Orientation(), "believed once"
        mask = make_mask("auto", half_a, half_b, voxel_size_angstrom)
        fsc = fsc_curves(half_a, half_b, voxel_size_angstrom, mask).corrected
        placement = locate_symmetry((half_a + half_b) / 2 * mask, group, fsc).placement
        return Orientation(group, placement.rotation, placement.center), "believed"

    return find


def impose(specimen: Specimen, group: str, particles: int, snr: float, seed: int) -> dict[str, Any]:
    """Reconstruct with a group imposed at the hand-over; return what new images said to it."""
    box, pixel = len(specimen.volume), specimen.pixel_size_angstrom
    settings = EngineSettings(symmetry="auto", starts=1)
    engine = Engine(settings, box, pixel, CpuBackend(), seed, find_symmetry=believed(group))
    imposed, taken_back = 0, 0
    gain, likelihood = float("nan"), float("nan")
    for batch, _ in batches(specimen, particles, snr, seed):
        # what was said before this batch: it goes with the symmetry
        before = engine.state().scalars if imposed else {}
        engine.fold(batch)
        status = engine.status
        imposed = imposed or (status.particles_seen if status.symmetry != "C1" else 0)
        if status.symmetry != "C1" and not np.isnan(status.symmetry_gain):
            gain = status.symmetry_gain
            likelihood = float(engine.state().scalars["start0_symmetry_doubts_log_likelihood"])
        if status.symmetry_taken_back:
            taken_back = status.particles_seen
            if np.isnan(gain):
                gain, likelihood = (float(before[f"start0_symmetry_doubts_{k}"]) for k in ("gain", "log_likelihood"))
            break
    return {
        "specimen": specimen.name,
        "SNR": snr,
        "group": group,
        "imposed at": imposed or "never",
        "gain (nats)": gain,
        "of (nats)": likelihood,
        "taken back": taken_back or "no",
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=7000, metavar="N", help="of each run (default: 7000)")
    options.add_argument(
        "--snr", type=float, nargs="+", default=[0.1], help="signal variance over noise variance (default: 0.1)"
    )
    options.add_argument("--part", choices=("runs", "believed", "all"), default="all", help="default: all")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    print_machine()
    bgal, f1 = beta_galactosidase(), f1_atpase()
    rows, judged = [], []
    runs = (
        (bgal, "C1", "D2"),
        (bgal, "D2", "D2"),
        (bgal, "auto", "D2"),
        (f1, "C1", "C3"),
        (f1, "auto", "C3"),
    )
    for specimen, asked, group in runs if chosen.part != "believed" else ():
        row, on_the_way = run(specimen, asked, group, chosen.particles, chosen.snr[0], chosen.seed)
        rows.append(row)
        judged += [{"specimen": specimen.name, **entry} for entry in on_the_way]
    print_table(judged)
    print()
    print_table(rows)
    imposed = []
    if chosen.part != "runs":
        for snr in chosen.snr:
            for specimen, group in ((f1, "C3"), (bgal, "D2"), (cage(), "O")):
                imposed.append(impose(specimen, group, chosen.particles, snr, chosen.seed))
    print()
    print_table(imposed)
    write_json(chosen.json, {"runs": rows, "on the way": judged, "believed": imposed})


if __name__ == "__main__":
    main()
