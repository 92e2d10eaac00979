"""Which particles are posed wrongly? By their distance from the box centre, and by how far the pose is off.

The global search covers a square grid of shifts and a little more by refinement; F1-ATPase is nearly threefold. One
run at each signal-to-noise ratio, the last 2,000 poses: the share within 15 degrees by the particle's true shift
(the larger of |x| and |y|), and of the wrong ones near the centre, how many are a third of a turn off.

About a minute. Example: python -m benchmarks.off_center --seed 2
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.common import batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings

_CASES = ((0.1, 8000), (0.03, 15000))
_LAST = 2000
_EDGES_PIXELS = (0.0, 2.0, 3.0, 4.0, np.inf)


def run(snr: float, particles: int, seed: int) -> list[dict[str, Any]]:
    """Reconstruct one simulated set; return a row for each range of shifts."""
    specimen = f1_atpase()
    engine = Engine(EngineSettings(), len(specimen.volume), specimen.pixel_size_angstrom, CpuBackend(), seed)
    found, true, shift = [], [], []
    for batch, rotation in batches(specimen, particles, snr, seed):
        found.append(engine.fold(batch).rotation)
        true.append(rotation)
        if batch.table.shift_angstrom is None:
            raise RuntimeError("the microscope gave no shifts")
        shift.append(batch.table.shift_angstrom / specimen.pixel_size_angstrom)
    errors = pose_errors(np.concatenate(true)[-_LAST:], np.concatenate(found)[-_LAST:]).error_degrees
    distance = np.abs(np.concatenate(shift)[-_LAST:]).max(axis=1)
    rows = []
    for low, high in pairwise(_EDGES_PIXELS):
        here = errors[(distance >= low) & (distance < high)]
        wrong = here[here >= 15]
        rows.append(
            {
                "SNR": snr,
                "shift (px)": f"{low:g} to {high:g}",
                "of particles": f"{len(here) / _LAST:.1%}",
                "within 15 deg": f"{np.mean(here < 15):.0%}",
                "median error (deg)": float(np.median(here)),
                "wrong": len(wrong),
                "of them at 105 to 135 deg": int(((wrong > 105) & (wrong < 135)).sum()),
            }
        )
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=1, help="of particles and random start (default: 1)")
    chosen = options.parse_args()
    print_machine()
    rows = [row for snr, particles in _CASES for row in run(snr, particles, chosen.seed)]
    print_table(rows)
    write_json(chosen.json, {"rows": rows})


if __name__ == "__main__":
    main()
