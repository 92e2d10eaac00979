"""The page's process beside the supervisor's two: kept alive, and of no weight for anything else.

The supervisor ends, fails and reports by ingest and worker alone. A page that crashes is started again; one that
crashes for ever costs the session nothing but its page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType

import structlog

from streamrecon.monitor.ports import unused_ports

_FIRST_SECONDS = 1.0
_MOST_SECONDS = 60.0
_STEADY_SECONDS = 60.0
_STOP_SECONDS = 12.0
_TICK_SECONDS = 0.2

_log = structlog.get_logger(__name__)


class Companion:
    """Run a command until we leave, again and again if it ends.

    Parameters
    ----------
    command : callable
        Given a loopback port, returns the command that serves on it.
    first_seconds : float
        Wait before the first restart; doubled each time, up to a minute.
    avoid_ports : collection of int
        Not for the page: the session's own, which nobody may have bound yet.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        first_seconds: float = _FIRST_SECONDS,
        avoid_ports: Collection[int] = (),
    ) -> None:
        self._command = command
        self._avoid_ports = avoid_ports
        self._first_seconds = first_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        self._leaving = threading.Event()
        # the kernel ends the process with the thread that started it: this one stays as long as we do
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)

    def __enter__(self) -> Companion:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._thread.join()

    @property
    def port(self) -> int | None:
        """Return the port it was last given, None while it does not run."""
        process = self._process
        return self._port if process is not None and process.poll() is None else None

    @property
    def pid(self) -> int | None:
        """Return its process number, None while it does not run."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def _run(self) -> None:
        wait = self._first_seconds
        while not self._leaving.is_set():
            began = time.monotonic()
            try:
                self._start()
            except OSError as error:
                _log.warning("page cannot be started", reason=str(error))
            while (process := self._process) is not None and process.poll() is None:
                if self._leaving.wait(_TICK_SECONDS):
                    self._end(process)
                    return
            wait = self._first_seconds if time.monotonic() - began > _STEADY_SECONDS else wait
            code = None if self._process is None else self._process.returncode
            _log.warning("page ended, restarting; the session is not touched", exit_code=code, seconds=wait)
            self._leaving.wait(wait)
            wait = min(_MOST_SECONDS, 2.0 * wait)

    def _start(self) -> None:
        (self._port,) = unused_ports(1, avoid=self._avoid_ports)
        launch = [sys.executable, "-m", "streamrecon.monitor.launch", str(os.getpid())]
        # a session of its own: Ctrl-C in a terminal reaches the supervisor alone
        self._process = subprocess.Popen(
            [*launch, *self._command(self._port)], start_new_session=True, stdin=subprocess.DEVNULL
        )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
