"""A program watched while it runs: processor time and memory of its whole process tree, and the maps it writes.

Processor time (user and system) is what a busy machine leaves comparable: wall time depends on who else runs.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_LOOK_SECONDS = 0.25
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Found:
    """A map that a program wrote.

    Attributes
    ----------
    maps : tuple of Path
        Files whose mean is the map: one, or two half maps.
    label : str
        What the program calls this point.
    visits : int
        Images looked at so far, an image that was looked at twice counted twice.
    core_seconds, seconds : float
        Processor and wall time from the program's start to when the map was there.
    """

    maps: tuple[Path, ...]
    label: str
    visits: int
    core_seconds: float = 0.0
    seconds: float = 0.0


@dataclass
class Watched:
    """What a program took.

    Attributes
    ----------
    finished : bool
        It ended by itself, or ``done`` said so, before its time was over.
    core_seconds, seconds : float
        In all, or up to the last map where ``done`` ended it.
    peak_bytes : int
        Highest resident memory of all its processes together.
    found : list of Found
    failure : str
        The end of what a program said that failed; "" if it did not.
    """

    finished: bool = False
    core_seconds: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0
    found: list[Found] = field(default_factory=list)
    failure: str = ""


class _Tree:
    """Processor time of a process and its descendants, those included that have ended since they were last seen."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._seconds: dict[int, float] = {}

    def look(self) -> tuple[float, int]:
        """Return core-seconds so far and resident bytes now."""
        resident = 0
        for process in self.members():
            try:
                times = process.cpu_times()
                resident += process.memory_info().rss
            except psutil.Error:
                continue  # it has just ended: what it had at the last look counts
            self._seconds[process.pid] = times.user + times.system
        return sum(self._seconds.values()), resident

    def members(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []


@contextmanager
def _started(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None
) -> Iterator[tuple[psutil.Popen, _Tree]]:
    """Start a program; when we leave it has ended, and so have its children."""
    with log.open("wb") as file:
        program = psutil.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        tree = _Tree(program)
        try:
            yield program, tree
        finally:
            members = tree.members()
            # in order first: it may have children to end itself
            if program.poll() is None:
                program.terminate()
            psutil.wait_procs([program], timeout=_PATIENCE_SECONDS)
            for process in members:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(members, timeout=_PATIENCE_SECONDS)
            program.wait()


def _never(_watched: Watched, _quiet_seconds: float) -> bool:
    return False


def watch(
    command: Sequence[str],
    folder: Path,
    log: Path,
    look_for_maps: Callable[[], list[Found]],
    limit_seconds: float,
    *,
    limit_core_seconds: float = math.inf,
    environment: Mapping[str, str] | None = None,
    done: Callable[[Watched, float], bool] = _never,
) -> Watched:
    """Run a program, and note when each of its maps is there.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Where it runs.
    log : Path
        What it says.
    look_for_maps : callable
        Returns the maps that are new since it was last asked, oldest first.
    limit_seconds : float
        Wall time after which it is ended.
    limit_core_seconds : float, optional
        Processor time after which it is ended.
    environment : mapping, optional
    done : callable, optional
        For a program that runs until told to stop: from what it took so far, and the seconds since its last map,
        whether its work is done.
    """
    result = Watched()
    began = time.monotonic()
    last = 0.0
    with _started(command, folder, log, environment) as (program, tree):
        while True:
            code = program.poll()
            new = look_for_maps()
            # after: what a map took is then never too low
            core_seconds, resident = tree.look()
            seconds = time.monotonic() - began
            result.peak_bytes = max(result.peak_bytes, resident)
            for found in new:
                result.found.append(Found(found.maps, found.label, found.visits, core_seconds, seconds))
            last = seconds if new else last
            quiet = done(result, seconds - last)
            result.finished = code is not None or quiet
            if not quiet or new:
                result.core_seconds, result.seconds = core_seconds, seconds
            if code is not None or quiet or seconds > limit_seconds or core_seconds > limit_core_seconds:
                break
            time.sleep(_LOOK_SECONDS)
    if code:
        result.finished = False
        result.failure = f"{command[0]} ended with {code}:\n{log.read_text(errors='replace')[-2000:]}"
    if quiet and result.found:
        result.core_seconds, result.seconds = result.found[-1].core_seconds, result.found[-1].seconds
    return result
