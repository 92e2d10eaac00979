"""Does one pass from a random start end at the specimen, every time?

Seeds x specimens x signal-to-noise ratios. Each run makes its own particles and its own random start from its seed,
folds every particle once, and is held against the truth:

  error      median angle (degrees) between found and true poses of the last 1,000 particles, after one global
             rotation and the hand; for beta-galactosidase in the nearest of its four equivalent poses
  within 15  share of those poses within 15 degrees
  until 90%  particles seen when first 90 % of the latest 500 poses were within 15 degrees
  FSC 0.5    where the map, aligned to the truth, falls below 0.5 against it, angstrom
  images/s   of the engine alone; making the particles is not counted

A run counts as converged if its error is below 5 degrees. Ten seeds of everything take about 12 minutes on two cores.

Example: python -m benchmarks.convergence --seeds 2 --only f1-0.1
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings

_CONVERGED_DEGREES = 5.0
_NEAR_DEGREES = 15.0
_LAST = 1000
_WINDOW = 500


@dataclass(frozen=True)
class Case:
    """One specimen at one noise level."""

    name: str
    specimen: Callable[[], Specimen]
    snr: float
    particles: int


CASES = (
    Case("f1-0.1", f1_atpase, 0.1, 8000),
    Case("f1-0.03", f1_atpase, 0.03, 15000),
    Case("bgal-0.1", beta_galactosidase, 0.1, 8000),
    Case("bgal-0.03", beta_galactosidase, 0.03, 15000),
)


@dataclass(frozen=True)
class Run:
    """What came out of one run."""

    seed: int
    median_error_degrees: float
    share_within_15: float
    particles_until_90_percent: int | None
    fsc_05_angstrom: float
    reported_angstrom: float
    settled: bool
    mirrored: bool
    images_per_second: float
    seconds: float
    #: The engine's last status, and true and found rotations of the last particles: for the analysis of failures.
    status: dict[str, Any] = field(repr=False)
    last_true: NDArray[np.float32] = field(repr=False)
    last_found: NDArray[np.float32] = field(repr=False)

    @property
    def converged(self) -> bool:
        """Whether the poses were found."""
        return self.median_error_degrees < _CONVERGED_DEGREES

    def figures(self) -> dict[str, Any]:
        """Return what goes into the JSON file."""
        arrays = ("status", "last_true", "last_found")
        return {**{k: v for k, v in vars(self).items() if k not in arrays}, "converged": self.converged}

    def line(self) -> str:
        """Return the run in a line."""
        return (
            f"  seed {self.seed:3d}  error {self.median_error_degrees:5.1f}  within 15 {self.share_within_15:5.1%}  "
            f"until 90% {self.particles_until_90_percent or '-':>6}  FSC 0.5 {self.fsc_05_angstrom:5.1f}  "
            f"{self.images_per_second:4.0f} images/s  {self.seconds:3.0f} s"
        )


def run_once(specimen: Specimen, snr: float, particles: int, seed: int) -> Run:
    """Reconstruct one simulated set and compare with the truth."""
    began = time.monotonic()
    box, pixel_size = len(specimen.volume), specimen.pixel_size_angstrom
    engine = Engine(EngineSettings(), box, pixel_size, CpuBackend(), seed)
    found = np.empty((particles, 3, 3), np.float32)
    true = np.empty((particles, 3, 3), np.float32)
    seen, busy = 0, 0.0
    until: int | None = None
    for batch, rotation in batches(specimen, particles, snr, seed):
        result = engine.fold(batch)
        found[seen : seen + len(batch)], true[seen : seen + len(batch)] = result.rotation, rotation
        seen += len(batch)
        busy += result.step_seconds
        if until is None and seen % _WINDOW == 0:
            window = slice(seen - _WINDOW, seen)
            errors = pose_errors(true[window], found[window], n_symmetric=specimen.n_symmetric)
            until = seen if errors.share_within(_NEAR_DEGREES) >= 0.9 else None
    errors = pose_errors(true[-_LAST:], found[-_LAST:], n_symmetric=specimen.n_symmetric)
    snapshot = engine.snapshot()
    aligned = align_volumes(specimen.volume, snapshot.volume, pixel_size)
    return Run(
        seed=seed,
        median_error_degrees=errors.median_degrees,
        share_within_15=errors.share_within(_NEAR_DEGREES),
        particles_until_90_percent=until,
        fsc_05_angstrom=fsc_between(specimen.volume, aligned.volume, pixel_size).resolution_05_angstrom,
        reported_angstrom=snapshot.resolution_angstrom,
        settled=engine.status.stage != "searching",
        mirrored=errors.mirrored,
        images_per_second=seen / busy,
        seconds=time.monotonic() - began,
        status=asdict(engine.status),
        last_true=true[-_LAST:],
        last_found=found[-_LAST:],
    )


def summary(case: Case, runs: list[Run]) -> dict[str, Any]:
    """Return one row of the table: medians, and the range over the seeds in brackets."""

    def spread(values: list[float], digits: int) -> str:
        return f"{np.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"

    untils = [float(r.particles_until_90_percent) for r in runs if r.particles_until_90_percent is not None]
    return {
        "case": case.name,
        "particles": case.particles,
        "converged": f"{sum(r.converged for r in runs)} of {len(runs)}",
        "error (deg)": spread([r.median_error_degrees for r in runs], 1),
        "within 15 deg": spread([100 * r.share_within_15 for r in runs], 0) + " %",
        "until 90%": spread(untils, 0) if untils else "-",
        "FSC 0.5 (A)": spread([r.fsc_05_angstrom for r in runs], 1),
        "reported 0.143 (A)": spread([r.reported_angstrom for r in runs], 1),
        "images/s": spread([r.images_per_second for r in runs], 0),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=10, metavar="N", help="so many seeds of each case (default: 10)")
    options.add_argument("--first", type=int, default=1, metavar="SEED", help="the first of them (default: 1)")
    options.add_argument("--only", choices=[c.name for c in CASES], help="only this case")
    chosen = options.parse_args()
    print_machine()
    run_once(f1_atpase(), 0.1, 1000, seed=0)  # compiles, untimed
    table, records = [], {}
    for case in CASES:
        if chosen.only not in (None, case.name):
            continue
        specimen = case.specimen()
        print(f"{case.name}: {specimen.name}, SNR {case.snr:g}, {case.particles} particles", flush=True)
        runs = []
        for seed in range(chosen.first, chosen.first + chosen.seeds):
            runs.append(run_once(specimen, case.snr, case.particles, seed))
            print(runs[-1].line(), flush=True)
        table.append(summary(case, runs))
        records[case.name] = [run.figures() for run in runs]
    print()
    print_table(table)
    write_json(chosen.json, {"summary": table, "runs": records})


if __name__ == "__main__":
    main()
