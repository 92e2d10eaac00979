"""Runs a plan's cells that are not there yet, one after the other; may be broken off at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamrecon.experiments.cells import PARTS, cells_of
from streamrecon.experiments.jobs import run_cell
from streamrecon.experiments.plan import Plan
from streamrecon.experiments.store import Cell, Store


@dataclass(frozen=True)
class Progress:
    """How far a run is: ``done`` of ``total`` cells are there, and the one that is being run, if any."""

    done: int
    total: int
    current: Cell | None


def pending(plan: Plan, store: Store, parts: Iterable[str] = PARTS) -> list[Cell]:
    """Return the cells that are missing."""
    return [cell for part in parts for cell in cells_of(plan, part, store) if not store.has(cell)]


def run_plan(
    plan: Plan,
    store: Store,
    *,
    parts: Iterable[str] = PARTS,
    most: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run what is missing; return whether all of it is there now.

    Parameters
    ----------
    most : int, optional
        Run at most so many cells.
    report : callable
        Called before each cell, and at the end.
    stop : callable
        Asked often; once it says so, the cell that is running is given up and nothing of it is kept.
    """
    chosen = [part for part in PARTS if part in set(parts)]
    for part in chosen:
        # only now: what a later part is run with follows from what tuning found
        for cell in cells_of(plan, part, store):
            if store.has(cell):
                continue
            if stop() or most == 0:
                return False
            everything = [c for p in chosen for c in cells_of(plan, p, store)]
            done = sum(store.has(c) for c in everything)
            report(Progress(done, len(everything), cell))
            result = run_cell(cell, plan.threads, stop)
            if result is None:
                return False
            store.put(cell, result)
            most = None if most is None else most - 1
    total = sum(len(cells_of(plan, part, store)) for part in chosen)
    report(Progress(total, total, None))
    return True
