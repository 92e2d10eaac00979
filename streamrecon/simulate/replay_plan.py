"""When each file of a finished session came, as far as the files tell: the plan of a replay."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from streamrecon.errors import ConfigError, IngestError
from streamrecon.io.manifest import read_manifest
from streamrecon.particles import ParticleTable

_MANIFEST_SUFFIXES = (".star", ".cs")


@dataclass(frozen=True)
class Arrival:
    """Something that appears.

    Attributes
    ----------
    seconds : float
        After the first one, as recorded.
    path : Path
        Relative to the session's folder.
    kind : {"stack", "part", "manifest"}
        A "part" is a joined STAR file as it was at that moment: only rows of stacks that have come.
    n_stacks : int
        For a part: how many of the manifest's stacks, in order of arrival, have come.
    """

    seconds: float
    path: Path
    kind: Literal["stack", "part", "manifest"]
    n_stacks: int = 0


@dataclass
class ReplayPlan:
    """Everything that will appear, in order.

    Attributes
    ----------
    arrivals : list of Arrival
    particles_of : dict of Path to int
        How many sections of each stack that is there the manifests name.
    stacks_of : dict of Path to list of Path
        The stacks of each joined STAR file in order of arrival, relative to the session's folder.
    unread : dict of Path to str
        STAR and .cs files that list no particles of this folder, with the reason; they are left out.
    missing : list of str
        File names of stacks that are named but not there; where they would be nobody can say.
    """

    source: Path
    arrivals: list[Arrival] = field(default_factory=list)
    particles_of: dict[Path, int] = field(default_factory=dict)
    stacks_of: dict[Path, list[Path]] = field(default_factory=dict)
    unread: dict[Path, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def n_particles(self) -> int:
        """Return how many particles the session has."""
        return sum(self.particles_of.values())

    @property
    def seconds(self) -> float:
        """Return how long the session took."""
        return self.arrivals[-1].seconds if self.arrivals else 0.0


def plan_session(source: Path, *, join_every_stacks: int = 20, spacing_seconds: float | None = None) -> ReplayPlan:
    """Work out from the files' times what came when.

    Parameters
    ----------
    source : Path
        The folder of a finished session: STAR or .cs files and the stacks they name.
    join_every_stacks : int
        A STAR file of several stacks is taken as one that was written anew each time so many had come.
    spacing_seconds : float or None
        If given, the recorded times only order the stacks, and one comes every so many seconds.

    Raises
    ------
    ConfigError
        No folder, or no particles in it.

    Notes
    -----
    A file's time is its mtime, the end of its writing. A manifest that is older than one of its stacks, as a copied
    one may be, comes after them all the same: that is the order in which the upstream programs write.
    """
    if not source.is_dir():
        raise ConfigError(f"{source}: expected the folder of a finished session, found none; check the path")
    source = Path(os.path.abspath(source))  # noqa: PTH100  # as read_manifest does: links keep their names
    plan = ReplayPlan(source)
    tables = _read_tables(plan)
    times, sections = _stack_times(plan, tables)
    if not sections:
        raise ConfigError(
            f"{source}: expected STAR or .cs files and their stacks, found {len(plan.unread)} such files but "
            "no particle with its stack; give the folder that watch.root would point to"
        )
    plan.particles_of = {path: len(np.unique(np.concatenate(parts))) for path, parts in sections.items()}
    order = sorted(times, key=lambda p: (times[p], p))
    if spacing_seconds is not None:
        times = {path: i * spacing_seconds for i, path in enumerate(order)}
    plan.arrivals = [Arrival(times[path], path, "stack") for path in order]
    for path, table in tables.items():
        _add_manifest(plan, path, table, times, join_every_stacks, spaced=spacing_seconds is not None)
    rank = {"stack": 0, "part": 1, "manifest": 2}
    plan.arrivals.sort(key=lambda a: (a.seconds, rank[a.kind], a.n_stacks, a.path))
    first = plan.arrivals[0].seconds
    plan.arrivals = [Arrival(a.seconds - first, a.path, a.kind, a.n_stacks) for a in plan.arrivals]
    return plan


def _read_tables(plan: ReplayPlan) -> dict[Path, ParticleTable]:
    tables = {}
    for path in sorted(plan.source.rglob("*")):
        if path.suffix not in _MANIFEST_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        try:
            tables[path.relative_to(plan.source)] = read_manifest(path, plan.source)
        except IngestError as error:
            plan.unread[path.relative_to(plan.source)] = str(error)
    return tables


def _stack_times(
    plan: ReplayPlan, tables: dict[Path, ParticleTable]
) -> tuple[dict[Path, float], dict[Path, list[np.ndarray]]]:
    """Return when each stack came, and the sections that the manifests name of it."""
    times: dict[Path, float] = {}
    sections: dict[Path, list[np.ndarray]] = {}
    missing: dict[str, None] = {}
    for table in tables.values():
        for number, name in enumerate(table.stack_names):
            path = Path(name).relative_to(plan.source)
            if path not in times:
                try:
                    times[path] = Path(name).stat().st_mtime
                except OSError:
                    missing[path.name] = None
                    continue
            sections.setdefault(path, []).append(table.stack_index[table.stack_number == number])
    plan.missing = list(missing)
    return times, sections


def _add_manifest(
    plan: ReplayPlan,
    path: Path,
    table: ParticleTable,
    times: dict[Path, float],
    join_every_stacks: int,
    *,
    spaced: bool,
) -> None:
    named = (Path(name).relative_to(plan.source) for name in table.stack_names)
    stacks = sorted((p for p in named if p in times), key=lambda p: (times[p], p))
    own = float("-inf") if spaced else (plan.source / path).stat().st_mtime
    last = max((times[p] for p in stacks), default=own)
    plan.arrivals.append(Arrival(max(own, last), path, "manifest"))
    if path.suffix != ".star" or len(stacks) < 2:
        return
    plan.stacks_of[path] = stacks
    for count in range(join_every_stacks, len(stacks), join_every_stacks):
        plan.arrivals.append(Arrival(times[stacks[count - 1]], path, "part", count))
