"""Ends this process where it waits on a device for a rank that is gone: nothing else can break off such a wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType

import structlog

_TICK_SECONDS = 0.5
_GRACE_SECONDS = 2.0
_EXIT_CODE = 1  # the supervisor starts the worker again, from its checkpoint

_log = structlog.get_logger(__name__)


class Watchdog:
    """Watches over what is done inside ``with watchdog:``.

    Parameters
    ----------
    gone : callable
        Says which rank has ended, "" if all run.
    patience_seconds : float
        The longest that what is watched may take.
    end : callable
        Ends the process with an exit code.
    """

    def __init__(
        self, gone: Callable[[], str], patience_seconds: float, end: Callable[[int], object] = os._exit
    ) -> None:
        self._gone = gone
        self._patience_seconds = patience_seconds
        self._end = end
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rank-watchdog", daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._since = None

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            since = self._since
            waited = 0.0 if since is None else time.monotonic() - since
            gone = self._gone() if waited > _GRACE_SECONDS else ""
            if gone or waited > self._patience_seconds:
                reason = f"{gone} is gone" if gone else f"no answer for {self._patience_seconds:g} s"
                _log.error("a sum over devices does not end", reason=reason)
                self._end(_EXIT_CODE)
                return
