"""Does every method of `engine.method` reach a map, untuned, and how soon?

Each runs on the same simulated particles of F1-ATPase from the same random start, in one pass:

  settled at   particles seen when the search had settled
  error        median pose error, degrees, of the last 1,000 particles
  within 15    share of those poses within 15 degrees
  FSC 0.5      resolution where the map's FSC to the truth falls below 0.5, angstrom
  reported     the resolution that the engine itself reports
  ms an image  processor time for everything: poses, steps, maps

At the default box of 32 pixels about five minutes on two cores. Example: python -m benchmarks.methods --only adagrad
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.common import batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.optimise.methods import METHODS, MethodName
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings

_LAST = 1000


def run_once(method: MethodName, box: int, particles: int, snr: float, seed: int) -> dict[str, Any]:
    """Reconstruct the set with one method; return its row of the table."""
    specimen = f1_atpase(box)
    pixel = specimen.pixel_size_angstrom
    engine = Engine(EngineSettings(method=method, starts=1), box, pixel, CpuBackend(), seed)
    found, true = [], []
    settled_at: int | None = None
    spent = 0.0
    for batch, rotation in batches(specimen, particles, snr, seed):
        began = time.process_time()
        found.append(engine.fold(batch).rotation)
        spent += time.process_time() - began
        true.append(rotation)
        if settled_at is None and engine.status.stage == "settled":
            settled_at = engine.status.particles_seen
    errors = pose_errors(np.concatenate(true)[-_LAST:], np.concatenate(found)[-_LAST:])
    snapshot = engine.snapshot()
    aligned = align_volumes(specimen.volume, snapshot.volume, pixel)
    return {
        "method": method,
        "settled at": settled_at,
        "error (deg)": errors.median_degrees,
        "within 15 deg": f"{errors.share_within(15.0):.0%}",
        "FSC 0.5 (A)": fsc_between(specimen.volume, aligned.volume, pixel).resolution_05_angstrom,
        "reported (A)": snapshot.resolution_angstrom,
        "ms an image": 1e3 * spent / particles,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", choices=METHODS, help="this one (default: all)")
    options.add_argument("--box", type=int, default=32, help="pixels (default: 32)")
    options.add_argument("--particles", type=int, default=8000, metavar="N", help="(default: 8000)")
    options.add_argument("--snr", type=float, default=0.3, help="(default: 0.3)")
    options.add_argument("--seed", type=int, default=1, help="of particles and start (default: 1)")
    chosen = options.parse_args()
    print_machine()
    rows = []
    for method in [chosen.only] if chosen.only else METHODS:
        rows.append(run_once(method, chosen.box, chosen.particles, chosen.snr, chosen.seed))
        print(f"  {rows[-1]}", flush=True)
    print_table(rows)
    write_json(chosen.json, {"runs": rows})


if __name__ == "__main__":
    main()
