"""What revisits gain, sweep by sweep, against the truth and against the true poses: `python -m benchmarks.refinement`.

Two sets: beta-galactosidase as relion_project makes it (see `benchmarks.relion_set`) and simulated F1-ATPase. The first
pass folds each particle once from a random start, as in a session; then sweeps over the kept particles, as a
session does in idle time. Columns:

  visits     image visits so far
  core-s     processor seconds so far, this process
  FSC 0.5    where the map falls below 0.5 against the truth, angstrom; 0.143 likewise
  reported   what the session itself would report (FSC 0.143 between halves), and of which kind
  error      median angle to the true poses, degrees, all particles
  ceiling    FSC 0.5 of the map made with the true poses: relion_reconstruct's, or our own backprojection

Example: python -m benchmarks.refinement --only relion --particles 5000 --sweeps 4
At the band of a real box (about 500 core-seconds, by what `benchmarks.scale` prints of its parts):
         python -m benchmarks.refinement --only f1 --box 128 --particles 20000 --snr 0.05 --sweeps 3
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import relion_set
from benchmarks.common import batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compare.poses import PoseErrors, pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.config.model import Config
from streamrecon.io import read_sections, read_star, read_volume
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.backproject import GivenPoses
from streamrecon.state.particle_store import record_type
from streamrecon.worker.engine import make_engine
from streamrecon.worker.preprocess import prepare
from streamrecon.worker.reconstruction import Reconstruction

_BATCH = 100


@dataclass(frozen=True)
class Set:
    """Particles with their truth.

    ``batches`` yields them in order; ``ceiling`` is FSC 0.5, angstrom, of the map made with the true poses.
    """

    name: str
    volume: NDArray[np.float32]
    pixel_size: float
    n_symmetric: int
    batches: list[ParticleBatch]
    rotation: NDArray[np.float32]
    ceiling: float


def relion_particles(folder: Path, particles: int, snr: float, seed: int) -> Set:
    """Let RELION make a set, and a map of it with the true poses."""
    truth = relion_set.make_set(folder, particles, snr, seed)
    volume = read_volume(folder / "map.mrc")[0]
    best = relion_set.relion_reconstruct(folder, folder / "particles.star", folder / "true.mrc")
    ceiling = fsc_between(volume, best, relion_set.PIXEL_SIZE).resolution_05_angstrom
    if truth.rotation is None:
        raise RuntimeError("the set was made without rotations")
    made = []
    for start in range(0, particles, _BATCH):
        rows = np.arange(start, min(particles, start + _BATCH))
        part = truth.select(rows)
        made.append(ParticleBatch(read_sections(folder / "particles.mrcs", rows), part, tuple(part.identities())))
    return Set(
        "beta-galactosidase, relion_project", volume, relion_set.PIXEL_SIZE, relion_set.N_SYMMETRIC, made,
        truth.rotation, ceiling,
    )  # fmt: skip


def simulated_particles(particles: int, snr: float, seed: int, box: int = 64) -> Set:
    """Simulate F1-ATPase; the ceiling is our own backprojection at the true poses."""
    specimen = f1_atpase(box)
    settings = Config()
    given = GivenPoses(settings.engine, len(specimen.volume), specimen.pixel_size_angstrom, CpuBackend())
    made, rotations = [], []
    for batch, rotation in batches(specimen, particles, snr, seed):
        given.fold(prepare(settings, batch, "protein_white"))
        made.append(batch)
        rotations.append(rotation)
    best = given.snapshot().volume
    ceiling = fsc_between(specimen.volume, best, specimen.pixel_size_angstrom).resolution_05_angstrom
    return Set(
        "F1-ATPase, simulated", specimen.volume, specimen.pixel_size_angstrom, 1, made, np.concatenate(rotations),
        ceiling,
    )  # fmt: skip


def errors_of(data: Set, reconstruction: Reconstruction, folder: Path) -> PoseErrors:
    """Hold the poses as they are now, as they are exported, against the truth."""
    reconstruction.export(folder / "particles.star")
    exported = read_star(folder / "particles.star")
    if exported.rotation is None:
        raise RuntimeError("no poses were exported")
    found = dict(zip(exported.identities(), exported.rotation, strict=True))
    order = [found[name] for batch in data.batches for name in batch.table.identities()]
    return pose_errors(data.rotation, np.array(order), n_symmetric=data.n_symmetric)


def measure(data: Set, sweeps: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row of the table after the first pass and after each sweep."""
    config = Config.model_validate({"session": {"output_dir": folder, "seed": seed}})
    reconstruction = Reconstruction(config, make_engine, folder / "poses.rows")
    reconstruction.contrast = "protein_white"
    spent = 0.0

    def row(sweep: int) -> dict[str, Any]:
        engine = reconstruction.engine
        if engine is None:
            raise RuntimeError("nothing was folded")
        snapshot = engine.snapshot()
        aligned = align_volumes(data.volume, snapshot.volume, data.pixel_size)
        fsc = fsc_between(data.volume, aligned.volume, data.pixel_size)
        errors = errors_of(data, reconstruction, folder)
        status = snapshot.status
        return {
            "after": "first pass" if sweep == 0 else f"sweep {sweep}",
            "visits": status.image_visits,
            "core-s": round(spent),
            "stage": status.stage,
            "k_max": status.k_max,
            "FSC 0.5": f"{fsc.resolution_05_angstrom:.2f}",
            "0.143": f"{fsc.resolution_0143_angstrom:.2f}",
            "reported": f"{snapshot.resolution_angstrom:.2f} {status.fsc_kind}",
            "error": f"{errors.median_degrees:.2f}",
            "within 15": f"{errors.share_within(15):.1%}",
            "ceiling": f"{data.ceiling:.2f}",
            "over it": f"{fsc.resolution_05_angstrom / data.ceiling - 1:+.1%}",
        }

    began = time.process_time()
    for number, batch in enumerate(data.batches):
        reconstruction.fold(number, batch)
    spent += time.process_time() - began
    yield row(0)
    for sweep in range(1, sweeps + 1):
        began = time.process_time()
        while reconstruction.revisit(_BATCH) is not None:
            pass
        if reconstruction.store is not None:
            reconstruction.store.index.sweep += 1
        spent += time.process_time() - began
        yield row(sweep)
    reconstruction.close()


def half_precision(data: Set) -> str:
    """Return what keeping images in half precision costs and saves."""
    config = Config()
    engine = make_engine(config, len(data.volume), data.pixel_size)
    layout = engine.layout
    kept = engine.fold(prepare(config, data.batches[0], "protein_white")).kept
    if layout is None or kept is None:
        raise RuntimeError("the engine keeps nothing")
    values = kept.images.decode()
    # rounding to 11 bits: what is lost of numbers that are there already is at most half of their last place
    exact = values * (1 + np.random.default_rng(0).uniform(-1, 1, values.shape) * 2.0**-12)
    lost = np.sqrt(np.mean((exact.astype(np.float16) - exact) ** 2) / np.mean(exact**2))
    record = record_type(layout).itemsize
    return (
        f"kept: {record} bytes a particle; half precision loses {lost:.1e} of the coefficients' size "
        f"({20 * np.log10(lost):.0f} dB); single precision would take {record + 4 * layout.n_points} bytes"
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=5000, metavar="N")
    options.add_argument("--snr", type=float, default=0.1)
    options.add_argument("--sweeps", type=int, default=4, metavar="N")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--box", type=int, default=64, metavar="PX", help="of the simulated set (default: 64)")
    options.add_argument("--only", choices=["relion", "f1"], help="only this set")
    chosen = options.parse_args()
    print_machine()
    results: dict[str, Any] = {}
    for which in ("relion", "f1"):
        if chosen.only not in (None, which):
            continue
        if which == "relion" and (missing := relion_set.missing_programs()):
            print(f"left out, not on PATH: {', '.join(missing)}")
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if which == "relion":
                data = relion_particles(folder, chosen.particles, chosen.snr, chosen.seed)
            else:
                data = simulated_particles(chosen.particles, chosen.snr, chosen.seed, chosen.box)
            print(f"\n{data.name}, {chosen.particles} particles, SNR {chosen.snr:g}, seed {chosen.seed}")
            rows = list(measure(data, chosen.sweeps, chosen.seed, folder / "session"))
            print_table(rows)
            print(half_precision(data), flush=True)
            results[which] = rows
    write_json(chosen.json, results)


if __name__ == "__main__":
    main()
