"""Telling systemd how we are (sd_notify(3)): ready, alive, stopping, and a line of status.

Our own few lines: the protocol is one datagram of text, fixed for good, and no library is needed to send it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import structlog

_PINGS_A_WATCHDOG = 4
_STARTING_SECONDS = 0.2
_STATUS_SECONDS = 10.0
# the supervisor's loop comes round many times a second
_HANGING_SECONDS = 20.0
ChildState = Literal["starting", "up", "down", "hanging", "finished"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Vitals:
    """How a supervisor and its processes are.

    ``turn_at`` is the monotonic time of the supervisor's last round; None while it stops, which has a time limit of
    its own.
    """

    children: Mapping[str, ChildState]
    turn_at: float | None
    about: str = ""


class Notifier:
    """Sends to the socket that systemd names in the environment; without one does nothing.

    Attributes
    ----------
    active : bool
    watchdog_seconds : float or None
        Silence after which systemd ends us.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.active = self._address.startswith(("/", "@"))
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        limit = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(limit) / 1e6 if self.active and meant and limit.isdecimal() else None

    def send(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``; a service manager that does not listen is no reason to fail."""
        if not self.active:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.connect(self._address)
                sock.sendall("\n".join(lines).encode())
        except OSError as error:
            _log.warning("systemd cannot be told", reason=str(error))


class Heart:
    """A thread that looks at a supervisor and tells systemd, from READY to the end of the with statement.

    READY is sent once both processes answer. A process that is down is being started again and no reason for
    alarm; one that runs and does not answer, or says that its loop hangs, silences the watchdog.

    Parameters
    ----------
    notifier : Notifier
    look : callable
        Returns the vitals; may take seconds.
    """

    def __init__(self, notifier: Notifier, look: Callable[[], Vitals]) -> None:
        self._notifier = notifier
        self._look = look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def __enter__(self) -> Heart:
        if self._notifier.active:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._notifier.active:
            self._thread.join()

    def _run(self) -> None:
        limit = self._notifier.watchdog_seconds
        every = _STATUS_SECONDS if limit is None else min(_STATUS_SECONDS, limit / _PINGS_A_WATCHDOG)
        ready = False
        while not self._ended.is_set():
            vitals = self._look()
            lines = [f"STATUS={_line(vitals)}"]
            if not ready and set(vitals.children.values()) <= {"up", "finished"}:
                ready = True
                lines.append("READY=1")
            if is_turning(vitals):
                lines.append("WATCHDOG=1")
            self._notifier.send(*lines)
            self._ended.wait(every if ready else min(every, _STARTING_SECONDS))


def is_turning(vitals: Vitals) -> bool:
    """Whether nothing hangs: neither the supervisor's loop nor a process; one that is down is another matter."""
    turning = vitals.turn_at is None or time.monotonic() - vitals.turn_at < _HANGING_SECONDS
    return turning and (vitals.turn_at is None or "hanging" not in vitals.children.values())


def _line(vitals: Vitals) -> str:
    states = ", ".join(f"{name} {state}" for name, state in vitals.children.items())
    stopping = "stopping: " if vitals.turn_at is None else ""
    return stopping + states + (f"; {vitals.about}" if vitals.about else "")
