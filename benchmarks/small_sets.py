"""What a set is worth that ends before the search has settled: `python -m benchmarks.small_sets`.

F1-ATPase of 64 pixels, SNR 0.1, as `streamrecon reconstruct` has it: one pass over all particles from a random start,
then visits as in a session's last sweeps (`refinement.final_sweeps`). Each seed is another set and another start.

  one pass   FSC 0.5 of the map against the truth, angstrom, and the share of poses within 15 degrees
  at the end the same after the visits, and the stage
  reported   the resolution that the program claims (FSC 0.143 between halves)
  true poses FSC 0.5 of the map that `reconstruct --given-poses` makes with the true poses: no map can be better
  visits     times that images were looked at, the first pass included; core-s: processor seconds of everything

A set counts as converged if nine poses of ten lie within 15 degrees. "Warned" counts those that have not and say so
themselves: the search has not settled, or the maps of two random starts disagree; in brackets those that are warned of
and have.

Example: python -m benchmarks.small_sets --particles 1000 --seeds 2
A seed at a time, and one table of all: --seeds 1 --first 3 --json 3.json, then --of 1.json 2.json 3.json
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import parser, print_machine, print_table, write_json
from benchmarks.refinement import Set, errors_of, simulated_particles
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.config.model import Config
from streamrecon.worker.engine import make_engine
from streamrecon.worker.reconstruction import Reconstruction
from streamrecon.worker.revisits import Revisits
from streamrecon.worker.search_visits import caution

_SIZES = (500, 1000, 2000)
_NEAR_DEGREES = 15.0
_CONVERGED = 0.9


def measure(data: Set, reconstruction: Reconstruction, folder: Path) -> dict[str, Any]:
    """Hold map and poses as they are now against the truth."""
    if reconstruction.engine is None:
        raise RuntimeError("nothing was folded")
    snapshot = reconstruction.engine.snapshot()
    aligned = align_volumes(data.volume, snapshot.volume, data.pixel_size)
    errors = errors_of(data, reconstruction, folder)
    return {
        "fsc_05_angstrom": fsc_between(data.volume, aligned.volume, data.pixel_size).resolution_05_angstrom,
        "within_15": errors.share_within(_NEAR_DEGREES),
        "reported_angstrom": snapshot.resolution_angstrom,
        "fsc_kind": snapshot.status.fsc_kind,
        "stage": snapshot.status.stage,
        "image_visits": snapshot.status.image_visits,
        "particles_seen": snapshot.status.particles_seen,
        "challenges": reconstruction.engine.status.challenges,
        "caution": caution(reconstruction.engine.status),
    }


def run_once(particles: int, snr: float, seed: int) -> dict[str, Any]:
    """Reconstruct one set and compare it with the truth after the pass, and at the end."""
    data = simulated_particles(particles, snr, seed)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = Config.model_validate({"session": {"output_dir": folder, "seed": seed}})
        reconstruction = Reconstruction(config, make_engine, folder / "poses.rows")
        reconstruction.contrast = "protein_white"
        for number, batch in enumerate(data.batches):
            reconstruction.fold(number, batch)
        one_pass = measure(data, reconstruction, folder)
        revisits = Revisits(config, reconstruction)
        revisits.finish()
        while revisits.wanted:
            revisits.step()
        end = measure(data, reconstruction, folder)
        reconstruction.close()
    return {
        "particles": particles, "seed": seed, "one_pass": one_pass, "end": end, "true_poses_angstrom": data.ceiling,
        "core_seconds": time.process_time() - began,
    }  # fmt: skip


def line(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run as a row of its table."""
    before, end = run["one_pass"], run["end"]
    return {
        "seed": str(run["seed"]),
        "one pass": f"{before['fsc_05_angstrom']:.1f}  {before['within_15']:.0%}",
        "at the end": f"{end['fsc_05_angstrom']:.1f}  {end['within_15']:.0%} {end['stage']}",
        "reported": f"{end['reported_angstrom']:.1f} {end['fsc_kind']}",
        "caution": end["caution"] or "-",
        "true poses": f"{run['true_poses_angstrom']:.1f}",
        "visits": str(end["image_visits"]),
        "core-s": f"{run['core_seconds']:.0f}",
    }


def summary(particles: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one row of the table: medians, and the range over the seeds in brackets."""

    def spread(values: list[float]) -> str:
        return f"{np.median(values):.1f} [{min(values):.1f}, {max(values):.1f}]"

    ends = [run["end"] for run in runs]
    good = [end["within_15"] >= _CONVERGED for end in ends]
    warned = [bool(end["caution"]) for end in ends]
    return {
        "particles": str(particles),
        "one pass (A)": spread([run["one_pass"]["fsc_05_angstrom"] for run in runs]),
        "at the end (A)": spread([end["fsc_05_angstrom"] for end in ends]),
        "true poses (A)": spread([run["true_poses_angstrom"] for run in runs]),
        "reported (A)": spread([end["reported_angstrom"] for end in ends]),
        "converged": f"{sum(good)} of {len(ends)}",
        "warned": (
            f"{sum(w and not g for w, g in zip(warned, good, strict=True))} of {len(ends) - sum(good)} "
            f"[{sum(w and g for w, g in zip(warned, good, strict=True))}]"
        ),
        "core-s": f"{np.median([run['core_seconds'] for run in runs]):.0f}",
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, nargs="+", default=list(_SIZES), metavar="N")
    options.add_argument("--snr", type=float, default=0.1)
    options.add_argument("--seeds", type=int, default=6, metavar="N", help="so many seeds of each size (default: 6)")
    options.add_argument("--first", type=int, default=1, metavar="SEED", help="the first of them (default: 1)")
    options.add_argument("--of", type=Path, nargs="+", metavar="FILE", help="the table of runs that --json has written")
    chosen = options.parse_args()
    records: dict[str, list[dict[str, Any]]] = {}
    if chosen.of:
        for path in chosen.of:
            for size, runs in json.loads(path.read_text(encoding="utf-8"))["runs"].items():
                records.setdefault(size, []).extend(runs)
    else:
        print_machine()
        for particles in chosen.particles:
            print(f"\nF1-ATPase, {particles} particles, SNR {chosen.snr:g}", flush=True)
            runs = records[str(particles)] = []
            for seed in range(chosen.first, chosen.first + chosen.seeds):
                runs.append(run_once(particles, chosen.snr, seed))
                print("  ".join(f"{key} {value}" for key, value in line(runs[-1]).items()), flush=True)
        print()
    table = [summary(int(size), records[size]) for size in sorted(records, key=int)]
    print_table(table)
    write_json(chosen.json, {"summary": table, "runs": records})


if __name__ == "__main__":
    main()
