"""How much room is left on the disks of a session.

Asked in a thread of its own: on a file server that hangs the question takes for ever, and a page that waited for
it would hide every other metric.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

EVERY_SECONDS = 10.0


def disk_space(folder: Path) -> tuple[float, float]:
    """Return the room left and the size of the file system on which a folder lies or would lie.

    Parameters
    ----------
    folder : Path
        If it is not there yet, its nearest parent that is.

    Returns
    -------
    free, size : float, bytes
        ``free`` is what a user without privileges may still write. Both NaN where it cannot be asked.
    """
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            break
        return float(found.f_bavail * found.f_frsize), float(found.f_blocks * found.f_frsize)
    return math.nan, math.nan


class DiskWatch:
    """Ask for the room on several disks every so often, from entering to leaving a with statement.

    Parameters
    ----------
    folders : mapping of str to Path
        By the name under which they are reported.
    report : callable
        Told name, free bytes and size; `SupervisorMetrics.filesystem`.
    every_seconds : float
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        report: Callable[[str, float, float], None],
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._report = report
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        # a thread a folder: one that hangs does not keep the other from being looked at
        self._threads = [
            threading.Thread(target=self._run, args=(name, folder), name=f"disk-{name}", daemon=True)
            for name, folder in folders.items()
        ]

    def __enter__(self) -> DiskWatch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=1.0)  # one that hangs is left behind

    def _run(self, name: str, folder: Path) -> None:
        while True:
            self._report(name, *disk_space(folder))
            if self._ended.wait(self._every_seconds):
                return
