"""``streamrecon experiments``: the seed paper's experiments, made again."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streamrecon.cli.exit_codes import INTERRUPTED, errors_as_exit_codes
from streamrecon.cli.stopping import stop_on_signals
from streamrecon.errors import ConfigError
from streamrecon.experiments.cells import PARTS
from streamrecon.experiments.estimate import estimate
from streamrecon.experiments.plan import Plan, bundled_plan, read_plan
from streamrecon.experiments.report import write_report
from streamrecon.experiments.runner import Progress, run_plan
from streamrecon.experiments.store import Store


def experiments(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results and report; a run there goes on.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Plan, a TOML file.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The bundled plan of a few minutes.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The bundled plan of the slides' size: hours.")] = False,
    published: Annotated[bool, typer.Option("--published", help="The bundled plan behind docs/experiments.")] = False,
    part: Annotated[list[str] | None, typer.Option(help=f"Only this part, again for more: {', '.join(PARTS)}.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Stop after so many cells; for schedulers.")] = None,
    only_estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Only measure what an image costs here, and say what the plan would take."),
    ] = False,
    only_report: Annotated[bool, typer.Option("--report", help="Only make the report of what is there.")] = False,
) -> None:
    """Run a plan's cells that are not there yet, then write CSV files, figures and report.html.

    Ctrl-C stops; the same command goes on where it was. Example: streamrecon experiments --quick -o experiments-out
    """
    console = Console(highlight=False)
    command = shlex.join(["streamrecon", *sys.argv[1:]])
    with errors_as_exit_codes():
        plan = _plan(config, {"quick": quick, "full": full, "published": published})
        parts = tuple(part) if part else PARTS
        unknown = sorted(set(parts) - set(PARTS))
        if unknown:
            raise ConfigError(f"--part {unknown[0]}: expected one of {', '.join(PARTS)}; mend it")
        if only_estimate:
            for line in estimate(plan, parts):
                console.print(line)
            return
        store = Store(output)
        finished = True
        if not only_report:
            stop = stop_on_signals()
            finished = run_plan(plan, store, parts=parts, most=most, report=_Reporter(console), stop=stop.is_set)
        page = write_report(plan, store, command) if finished or most is None else None
    if not finished:
        console.print(f"Stopped. What is done is kept in {output}; go on with: {command}")
        raise typer.Exit(INTERRUPTED)
    console.print(f"report: {page}")


def _plan(config: Path | None, bundled: dict[str, bool]) -> Plan:
    names = [name for name, chosen in bundled.items() if chosen]
    if (config is not None) + len(names) != 1:
        raise ConfigError("expected one plan: --quick, --published, --full, or -c FILE; choose one")
    return read_plan(config) if config is not None else bundled_plan(names[0])


class _Reporter:
    """Prints a line a cell, with the time so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        what = "all there" if progress.current is None else f"{progress.current.part}: {progress.current.name}"
        elapsed = time.monotonic() - self._began
        self._console.print(f"{progress.done:4d} of {progress.total}  {elapsed:6.0f} s  {what}")
