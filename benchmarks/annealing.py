"""Why the annealing clock runs slower on noisy images.

The target of the annealing falls with images seen, each image counting clip(T / 4, 0.1, 1) of itself, where T is the
temperature that would bring the coarse posterior to the present target. The same runs are made here with that clock
and with one that counts every image in full, at signal-to-noise ratios 0.1 and 0.03 (F1-ATPase, one random start):

  first T    median balancing temperature over the first 1,000 images
  settled at particles seen when the search had settled
  error      median pose error, degrees, of the last 1,000 particles
  within 15  share of those poses within 15 degrees

About six minutes. Example: python -m benchmarks.annealing --seeds 1
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.common import batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.reconstruct import annealing
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings

_CASES = ((0.1, 8000), (0.03, 15000))
_LAST = 1000
_balance = annealing.balancing_temperature


def run_once(snr: float, particles: int, seed: int, *, slow_clock: bool) -> dict[str, Any]:
    """Reconstruct one simulated set; return its row of the table."""
    specimen = f1_atpase()
    engine = Engine(EngineSettings(starts=1), len(specimen.volume), specimen.pixel_size_angstrom, CpuBackend(), seed)
    found, true, temperatures = [], [], []
    settled_at: int | None = None

    def noted(*arguments: Any) -> float:
        temperatures.append(_balance(*arguments))
        return temperatures[-1]

    full_rate = patch.object(annealing, "clock_rate", return_value=1.0)
    with patch.object(annealing, "balancing_temperature", noted), nullcontext() if slow_clock else full_rate:
        for batch, rotation in batches(specimen, particles, snr, seed):
            found.append(engine.fold(batch).rotation)
            true.append(rotation)
            if settled_at is None and engine.status.stage == "settled":
                settled_at = engine.status.particles_seen
    errors = pose_errors(np.concatenate(true)[-_LAST:], np.concatenate(found)[-_LAST:])
    return {
        "SNR": snr,
        "clock": "slower when noisy" if slow_clock else "every image in full",
        "seed": seed,
        "particles": particles,
        "first T": float(np.median(temperatures[:10])),
        "settled at": settled_at,
        "error (deg)": errors.median_degrees,
        "within 15 deg": f"{errors.share_within(15.0):.0%}",
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N (default: 3)")
    chosen = options.parse_args()
    print_machine()
    rows = []
    for snr, particles in _CASES:
        for slow_clock in (True, False):
            for seed in range(1, chosen.seeds + 1):
                rows.append(run_once(snr, particles, seed, slow_clock=slow_clock))
                print(f"  {rows[-1]}", flush=True)
    print_table(rows)
    write_json(chosen.json, {"runs": rows})


if __name__ == "__main__":
    main()
