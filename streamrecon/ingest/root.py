"""Is the watched folder there? A file server that is away leaves nothing, an error, or an empty mount point."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
# as many of the files known are looked for before a root on another device is called another folder
_LOOKED_FOR = 20
_LOOK_SECONDS = 1.0


class WatchedRoot:
    """Knows whether the root is there, for whoever scans it and whoever delivers from it.

    Parameters
    ----------
    path : Path
    known : callable
        Given a number, returns as many names of files below the root that were good when last seen.

    Attributes
    ----------
    identity : (int, int) or None
        Device and inode at the last look; None while the root is not there.
    away : str
        Why the root is not there, for people; "" while it is.

    Notes
    -----
    The root is away while it cannot be listed; while it is empty although files are known in it, as a mount point is
    after an unmount; and while it lies on another device than when it was last there, unless one of the files known
    is found there: a file server may come back under another number. A device is not remembered from one process to
    the next, so whoever puts another folder there on purpose starts the daemon again.
    """

    def __init__(
        self, path: Path, known: Callable[[int], Sequence[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._known = known
        self._clock = clock
        self._device: int | None = None
        self._looked_at: float | None = None
        self.identity: tuple[int, int] | None = None
        self.away = ""

    @property
    def present(self) -> bool:
        """True if the root was there at the last look."""
        return not self.away

    def look(self) -> bool:
        """Look now; return whether the root is there."""
        before, self.away = self.away, self._why_away()
        self._looked_at = self._clock()
        if self.away:
            self.identity = None
        if bool(before) != bool(self.away):
            if self.away:
                _log.warning(
                    "watch_root_missing",
                    root=str(self.path),
                    reason=self.away,
                    remedy="mount or create it; what was seen is kept meanwhile, and nothing of it is sent",
                )
            else:
                _log.info("watch_root_returned", root=str(self.path))
        return not self.away

    def look_now_and_then(self) -> bool:
        """Return whether the root is there, as it was at most a second ago."""
        if self._looked_at is None or self._clock() - self._looked_at >= _LOOK_SECONDS:
            return self.look()
        return self.present

    def _why_away(self) -> str:
        try:
            status = self.path.stat()
            if not stat.S_ISDIR(status.st_mode):
                return "expected a folder, found a file"
            with os.scandir(self.path) as entries:
                # hidden ones are no files of a session
                empty = all(entry.name.startswith(".") for entry in entries)
        except OSError as error:
            return f"expected a folder, found that it cannot be listed ({error.strerror})"
        if empty and self._known(1):
            return "expected the files known in it, found it empty"
        if self._device not in (None, status.st_dev):
            names = self._known(_LOOKED_FOR)
            if names and not any(map(self._holds, names)):
                return "expected the files known in it, found another device and none of them"
        self._device = status.st_dev
        self.identity = (status.st_dev, status.st_ino)
        return ""

    def _holds(self, name: str) -> bool:
        try:
            return (self.path / name).exists()
        except OSError:
            return False
