"""When a file counts as finished: the state machine of one stack or manifest.

Pure: it is fed observations, probe verdicts and a monotonic time, and does no IO of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_ABSENT = -1  # the size of a file that is not there


class FileState(StrEnum):
    """Where one file stands; its particles go on to ``queued`` and ``folded``."""

    SEEN = "seen"
    SETTLING = "settling"
    READY = "ready"
    ORPHAN = "orphan"
    QUARANTINED = "quarantined"


@dataclass(frozen=True)
class Problem:
    """Why a probe did not like a file: the error's kind, its message, and whether waiting may help."""

    kind: str
    reason: str
    transient: bool


@dataclass(frozen=True)
class SettleTimes:
    """How patient the machine is.

    Attributes
    ----------
    settle_seconds : float
        Size and mtime must have stood still for this long.
    orphan_seconds : float
        After this long without its counterpart a file is an orphan; after this long unchanged and still
        incomplete it is quarantined.
    retry_seconds : float
        A probe that failed for a transient reason is repeated this often.
    impatient_seconds : float or None
        Probe a file that never stands still after this long all the same (a joined STAR that is appended to
        all day); None for never.
    """

    settle_seconds: float
    orphan_seconds: float
    retry_seconds: float = 1.0
    impatient_seconds: float | None = None


class FileSettle:
    """State of one file.

    `refer` says that a counterpart exists (a row names this stack). A manifest is referred to from the
    start: nothing has to name it.

    Notes
    -----
    Time is the caller's monotonic clock. Should it ever step back, the machine stands still until it has
    caught up; mtime is only compared for equality, so a wrong wall clock does no harm.
    """

    # there is one of them for each file of a session
    __slots__ = (
        "_busy_since",
        "_mtime_ns",
        "_now",
        "_probed_at",
        "_problem",
        "_referred",
        "_since",
        "_size",
        "_times",
    )

    def __init__(self, times: SettleTimes, now: float) -> None:
        self._times = times
        self._now = now
        self._size = _ABSENT
        self._mtime_ns = 0
        self._since = now  # of the present size and mtime, or of the absence
        self._busy_since = now  # of the first change after the last probe
        self._referred = False
        self._probed_at: float | None = None  # of the present size and mtime
        self._problem: Problem | None = None

    @property
    def signature(self) -> tuple[int, int] | None:
        """(size, mtime_ns) as last observed; None while the file is not there."""
        return (self._size, self._mtime_ns) if self.present else None

    @property
    def present(self) -> bool:
        """True if the file was there when it was last looked at."""
        return self._size != _ABSENT

    def is_as(self, size: int, mtime_ns: int) -> bool:
        """Return True if the file is as it was when it was last looked at: what a scan asks of every file."""
        return size == self._size and mtime_ns == self._mtime_ns

    @property
    def referred(self) -> bool:
        """True once a counterpart is known."""
        return self._referred

    @property
    def problem(self) -> Problem | None:
        """What the last probe of the present signature found wrong."""
        return self._problem

    def _tick(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now

    def observe(self, size: int, mtime_ns: int, now: float) -> bool:
        """Take one look at the file; return True if it changed since the last."""
        return self._become(size, mtime_ns, now)

    def vanish(self, now: float) -> bool:
        """Note that the file is not there; return True if it was before."""
        return self._become(_ABSENT, 0, now)

    def _become(self, size: int, mtime_ns: int, now: float) -> bool:
        now = self._tick(now)
        if self.is_as(size, mtime_ns):
            return False
        if self._probed_at is not None:
            self._busy_since = now
        self._size = size
        self._mtime_ns = mtime_ns
        self._since = now
        self._probed_at = None
        self._problem = None
        return True

    def refer(self, now: float) -> None:
        """Note that a counterpart names this file; an absent file's time as an orphan starts here."""
        now = self._tick(now)
        if not self._referred:
            self._referred = True
            if not self.present:
                self._since = now

    def probed(self, problem: Problem | None, now: float) -> None:
        """Take the verdict of a probe of the present signature; None is "good"."""
        self._probed_at = self._busy_since = self._tick(now)
        self._problem = problem

    def recheck(self) -> None:
        """Forget the verdict: the counterpart changed, so that the same file may be good now."""
        self._probed_at = None
        self._problem = None

    def unchanged_seconds(self, now: float) -> float:
        """Return how long the file has been as it is, or away."""
        return self._tick(now) - self._since

    def still(self, now: float) -> bool:
        """Return True if size and mtime have stood still for ``settle_seconds``."""
        return self.present and self._tick(now) - self._since >= self._times.settle_seconds

    def wants_probe(self, now: float) -> bool:
        """Return True if a probe could change the state now."""
        now = self._tick(now)
        if not self.present or not self._referred:
            return False
        if self._probed_at is not None:
            waiting = self._problem is not None and self.state(now) is FileState.SETTLING
            return waiting and now - self._probed_at >= self._times.retry_seconds
        impatient = self._times.impatient_seconds
        return self.still(now) or (impatient is not None and now - self._busy_since >= impatient)

    def state(self, now: float) -> FileState:
        """Return the file's state at this time."""
        now = self._tick(now)
        given_up = now - self._since >= self._times.orphan_seconds
        if not self.present or not self._referred:
            return FileState.ORPHAN if given_up else FileState.SEEN
        if self._probed_at is None:
            return FileState.SETTLING
        if self._problem is None:
            return FileState.READY
        if given_up or not self._problem.transient:
            return FileState.QUARANTINED
        return FileState.SETTLING
