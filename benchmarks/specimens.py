"""Six kinds of particle, several seeds each: does one pass from a random start find the specimen, and if not, why not?

  F1-ATPase            PDB 1E79, bundled: asymmetric, but nearly threefold
  beta-galactosidase   a measured map, D2
  dimer                one alpha and one beta subunit of F1, 97 kDa: small
  transporter          helices across a detergent micelle with a stalk on top; made up
  F1, preferred views  F1-ATPase seen along one axis most of the time: the density of views falls 20-fold to the equator
  cage                 ferritin-like, octahedral: hollow, round, and 24 equal views; made up

Columns are those of `benchmarks.convergence`. "doubted" is in how many runs the engine itself held the start that went
on against a fresh one (`challenges` in its status), and in how many of those that failed. After the table every failed
run is taken apart: what share of the last poses agree in one frame of one hand, what share of the others in a second.

Example: python -m benchmarks.specimens --seeds 2 --only dimer --particles 4000
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.common import (
    Specimen,
    beta_galactosidase,
    f1_atpase,
    parser,
    print_machine,
    print_table,
    write_json,
)
from benchmarks.convergence import Case, Run, run_once, summary
from benchmarks.made_specimens import cage, heterodimer, transporter
from streamrecon.compare.poses import pose_errors

_PREFERRED = 3.0  # exp(3) = 20
_NEAR_DEGREES = 15.0


def preferred_views(box_size: int = 64) -> Specimen:
    """Return F1-ATPase that lies on its side: seen along the model's z most of the time."""
    return replace(f1_atpase(box_size), name="F1-ATPase, preferred views", view_concentration=_PREFERRED)


SPECIMENS: dict[str, Callable[[int], Specimen]] = {
    "f1": f1_atpase,
    "bgal": beta_galactosidase,
    "dimer": heterodimer,
    "transporter": transporter,
    "preferred": preferred_views,
    "cage": cage,
}


def doubted(run: Run) -> bool | None:
    """Whether the engine itself doubted the start that went on; None where it does not say."""
    challenges = run.status.get("challenges")
    return None if challenges is None else bool(challenges)


def diagnosis(run: Run, n_symmetric: int) -> str:
    """Say of what a failed run's last poses are a mixture."""
    errors = pose_errors(run.last_true, run.last_found, n_symmetric=n_symmetric)
    rest = errors.error_degrees >= _NEAR_DEGREES
    text = f"{errors.share_within(_NEAR_DEGREES):.0%} in one frame"
    if rest.sum() >= 20:
        second = pose_errors(run.last_true[rest], run.last_found[rest], n_symmetric=n_symmetric)
        hand = "the same hand" if second.mirrored == errors.mirrored else "the other hand"
        share = rest.mean() * second.share_within(_NEAR_DEGREES)
        text += f", {share:.0%} in a second one of {hand}, {rest.mean() - share:.0%} in neither"
    status = run.status
    return (
        f"{text}; stage {status['stage']}, coarse entropy {status['coarse_entropy']:.1f} nats, log-evidence "
        f"{status['log_evidence']:.1f}, reported {run.reported_angstrom:.1f} A; doubted by the engine: "
        f"{ {None: 'does not say', True: 'yes', False: 'no'}[doubted(run)] }"
    )


def row(case: Case, runs: list[Run]) -> dict[str, Any]:
    """Return a specimen's row of the table."""
    says = [doubted(run) for run in runs]
    failed = [d for d, run in zip(says, runs, strict=True) if not run.converged]
    text = "-" if None in says else f"{sum(map(bool, says))}, of the failed {sum(map(bool, failed))} of {len(failed)}"
    return {**summary(case, runs), "doubted": text}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=20, metavar="N", help="so many seeds of each (default: 20)")
    options.add_argument("--first", type=int, default=1, metavar="SEED", help="the first of them (default: 1)")
    options.add_argument("--particles", type=int, default=8000, metavar="N", help="in each run (default: 8000)")
    options.add_argument("--box", type=int, default=64, metavar="PX", help="box size, at most 64 (default)")
    options.add_argument("--snr", type=float, default=0.1, help="signal variance over noise variance (default: 0.1)")
    options.add_argument("--only", choices=list(SPECIMENS), nargs="+", help="only these")
    chosen = options.parse_args()
    print_machine()
    run_once(f1_atpase(), 0.1, 1000, seed=0)  # compiles, untimed
    names = chosen.only or list(SPECIMENS)
    specimens = {name: SPECIMENS[name](chosen.box) for name in names}
    runs: dict[str, list[Run]] = {name: [] for name in names}
    failures = []
    # a seed of each, then the next: a run that is broken off has still seen every specimen
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        for name, specimen in specimens.items():
            run = run_once(specimen, chosen.snr, chosen.particles, seed)
            runs[name].append(run)
            print(f"{name:12s}{run.line()}", flush=True)
            if not run.converged:
                failures.append(f"{name}, seed {seed}: {diagnosis(run, specimen.n_symmetric)}")
                print(f"    {failures[-1]}", flush=True)
    cases = [Case(name, partial(SPECIMENS[name], chosen.box), chosen.snr, chosen.particles) for name in names]
    table = [row(case, runs[case.name]) for case in cases]
    records = {name: [run.figures() for run in made] for name, made in runs.items()}
    print()
    print_table(table)
    print("\n" + ("\n".join(["Failed:", *failures]) if failures else "None failed."))
    write_json(chosen.json, {"summary": table, "runs": records, "failures": failures})


if __name__ == "__main__":
    main()
