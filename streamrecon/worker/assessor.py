"""Assessments beside the worker's own work: one at a time, in a thread of low priority, never in its way."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from streamrecon.reconstruct.results import Snapshot
from streamrecon.worker.assessing import Assessed, SnapshotAssessor
from streamrecon.worker.tallies import Told

# Python's threads share one interpreter: much of an assessment runs beside a fold, some of it instead of one. At a
# twentieth of the time, what it can take from the worker stays within what batches differ by anyway.
_SHARE_OF_TIME = 0.05
_NICENESS = 10


class Assessor:
    """Runs `SnapshotAssessor` in a thread and hands over what it found.

    Parameters
    ----------
    assess : SnapshotAssessor
    folder : Path
        Where the files go.
    every_seconds : float
        At most so often; and never for more than a twentieth of one core.
    clock, worked : callable
        Seconds that passed, and that the calling thread had of a processor.

    Notes
    -----
    Only the newest snapshot waits: memory is one snapshot in work and one waiting, whatever the worker does.
    """

    def __init__(
        self,
        assess: SnapshotAssessor,
        folder: Path,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._assess = assess
        self._folder = folder
        self._every_seconds = every_seconds
        self._clock, self._worked = clock, worked
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="assess", initializer=_lower_priority)
        self._running: Future[tuple[Assessed, float]] | None = None
        self._waiting: tuple[Snapshot, Told] | None = None
        self._due = float("-inf")
        self._began = 0.0

    def submit(self, snapshot: Snapshot, told: Told) -> None:
        """Have a snapshot assessed when its turn comes; one that still waits is superseded."""
        self._waiting = (snapshot, told)
        self._start_if_due()

    def poll(self) -> Assessed | None:
        """Return an assessment that has become ready, once.

        Raises
        ------
        Exception
            Whatever went wrong in it, once; the next snapshot is tried again.
        """
        if self._running is not None and self._running.done():
            future, self._running = self._running, None
            self._due = self._began + self._every_seconds
            found, worked_seconds = future.result()
            self._due = max(self._due, self._began + worked_seconds / _SHARE_OF_TIME)
            self._start_if_due()
            return found
        self._start_if_due()
        return None

    def finish(self, timeout_seconds: float) -> list[Assessed | Exception]:
        """Assess what still waits, whether it is due or not, and return what came of it; give up after a while."""
        out: list[Assessed | Exception] = []
        end = time.monotonic() + timeout_seconds
        while self._running is not None or self._waiting is not None:
            self._due = float("-inf")
            self._start_if_due()
            if self._running is None or not wait([self._running], max(0.0, end - time.monotonic())).done:
                break
            try:
                found = self.poll()
            except Exception as error:
                found, failure = None, error
                out.append(failure)
            if found is not None:
                out.append(found)
        return out

    def close(self) -> None:
        """Begin nothing more; an assessment under way ends by itself."""
        self._waiting = None
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start_if_due(self) -> None:
        if self._running is not None or self._waiting is None or self._clock() < self._due:
            return
        snapshot, told = self._waiting
        self._waiting = None
        self._began = self._clock()
        self._running = self._pool.submit(self._run, snapshot, told)

    def _run(self, snapshot: Snapshot, told: Told) -> tuple[Assessed, float]:
        """Return the assessment and the processor time it took: on a busy machine the clock says more than it cost."""
        began = self._worked()
        assessed = self._assess.assess(snapshot, told)
        self._assess.write(self._folder, assessed)
        return assessed, self._worked() - began


def _lower_priority() -> None:
    """Let the worker's own threads go first; on Linux a thread has a niceness of its own."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
