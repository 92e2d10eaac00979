"""A finished session appears again in another folder, file by file, as its upstream program wrote it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from streamrecon.errors import ConfigError, IngestError
from streamrecon.io.atomic import atomic_path
from streamrecon.io.manifest import read_manifest
from streamrecon.simulate.replay_plan import Arrival, ReplayPlan

Mode = Literal["auto", "hardlink", "copy"]


class SessionReplayer:
    """Put a plan's files into a folder at their times.

    Parameters
    ----------
    plan : ReplayPlan
    target : Path
        New, empty, or left by an earlier replay of the same session, which is then gone on with.
    speed : float
        1: as recorded; N: N times faster; infinite: without a pause.
    max_gap_seconds : float
        Longer pauses of the session are cut to this, before ``speed`` counts.
    mode : {"auto", "hardlink", "copy"}
        "auto" links where the file system can, and copies elsewhere.
    sleep, clock : callable
        Replaced in tests.

    Raises
    ------
    ConfigError
        The target holds something else, or lies in the session's folder or around it.

    Notes
    -----
    A stack comes before the manifests that name it. A joined STAR file grows: before its time it is written, whole
    and atomically, with the rows of the stacks that have come. Nothing is ever written into the session's folder.
    """

    def __init__(
        self,
        plan: ReplayPlan,
        target: Path,
        *,
        speed: float = 1.0,
        max_gap_seconds: float = float("inf"),
        mode: Mode = "auto",
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._target = Path(os.path.abspath(target))  # noqa: PTH100  # as the plan's source
        self._speed = speed
        self._max_gap_seconds = max_gap_seconds
        self._mode = mode
        self._sleep = sleep
        self._clock = clock
        self._check_target()
        self.waiting = self._not_done()

    @property
    def seconds(self) -> float:
        """Return how long the rest takes."""
        gaps = (b.seconds - a.seconds for a, b in zip(self.waiting[:-1], self.waiting[1:], strict=True))
        return sum(min(gap, self._max_gap_seconds) for gap in gaps) / self._speed

    def run(self, on_arrival: Callable[[Arrival], None] = lambda _: None) -> None:
        """Let everything appear that has not yet; an interrupted run leaves whole files only.

        Raises
        ------
        IngestError
            A file of the session is gone, or the target cannot be written.
        """
        due = self._clock()
        before: float | None = None
        for arrival in self.waiting:
            if before is not None:
                due += min(arrival.seconds - before, self._max_gap_seconds) / self._speed
            before = arrival.seconds
            if (pause := due - self._clock()) > 0:
                self._sleep(pause)
            try:
                self._deliver(arrival)
            except OSError as error:
                raise IngestError(
                    f"{self._target / arrival.path}: cannot be written from {self._plan.source / arrival.path} "
                    f"({error.strerror}); put it right and run the same command again: it goes on where it was"
                ) from error
            on_arrival(arrival)

    def _check_target(self) -> None:
        source, target = self._plan.source, self._target
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise ConfigError(f"{target}: expected a folder apart from {source}, found one inside the other; move it")
        planned = {a.path for a in self._plan.arrivals}
        found = (p.relative_to(target) for p in target.rglob("*") if p.is_file() and not p.name.startswith("."))
        foreign = next((p for p in found if p not in planned), None)
        if foreign is not None:
            raise ConfigError(
                f"{target}: expected a new folder or an earlier replay of {source}, found {foreign}, which is not of "
                "that session; give another folder"
            )

    def _not_done(self) -> list[Arrival]:
        """Return what has not come yet; parts only after the last file that is there."""
        arrivals = self._plan.arrivals
        done = {a.path for a in arrivals if a.kind != "part" and self._is_whole(a.path)}
        last = max((i for i, a in enumerate(arrivals) if a.kind != "part" and a.path in done), default=-1)
        return [a for i, a in enumerate(arrivals) if a.path not in done and (a.kind != "part" or i > last)]

    def _is_whole(self, path: Path) -> bool:
        target = self._target / path
        return target.is_file() and target.stat().st_size == (self._plan.source / path).stat().st_size

    def _deliver(self, arrival: Arrival) -> None:
        source, target = self._plan.source / arrival.path, self._target / arrival.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if arrival.kind == "part":
            come = self._plan.stacks_of[arrival.path][: arrival.n_stacks]
            text = part_of_star(source, {self._plan.source / p for p in come}, self._plan.source)
            if text is not None:
                with atomic_path(target) as temporary:
                    temporary.write_bytes(text)
            return
        if self._mode != "copy" and not target.exists():
            try:
                target.hardlink_to(source.resolve())
                return
            except OSError:
                if self._mode == "hardlink":
                    raise
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def part_of_star(path: Path, stacks: set[Path], root: Path) -> bytes | None:
    """Return a particle STAR file with only the rows of some stacks; all else byte for byte.

    Parameters
    ----------
    path : Path
    stacks : set of Path
        Absolute, as `read_manifest` resolves them.
    root : Path

    Returns
    -------
    bytes or None
        None if its rows are not one a line, or none of them is wanted.
    """
    table = read_manifest(path, root)
    lines = path.read_bytes().splitlines(keepends=True)
    rows = _row_lines(lines)
    if len(rows) != len(table):
        return None
    wanted = [Path(name) in stacks for name in table.stack_names]
    dropped = {line for line, number in zip(rows, table.stack_number.tolist(), strict=True) if not wanted[number]}
    if len(dropped) == len(rows):
        return None
    return b"".join(line for i, line in enumerate(lines) if i not in dropped)


def _row_lines(lines: list[bytes]) -> list[int]:
    """Return which lines are rows of the loop that has rlnImageName."""
    rows: list[int] = []
    in_heading = wanted = False
    for i, line in enumerate(lines):
        text = line.strip()
        if text == b"loop_" or text.startswith(b"data_"):
            if rows:
                break
            in_heading, wanted = text == b"loop_", False
        elif text.startswith(b"_"):
            wanted |= in_heading and text.split()[0] == b"_rlnImageName"
        elif text and not text.startswith(b"#") and wanted:
            rows.append(i)
    return rows
