"""Running ingest and worker as child processes of one: start, watch, restart, stop in order."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from types import FrameType

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from streamrecon.monitor.handlers import set_from_handler
from streamrecon.monitor.metrics import SupervisorMetrics
from streamrecon.monitor.notify import ChildState, Heart, Notifier, Vitals, is_turning
from streamrecon.monitor.ports import unused_ports
from streamrecon.monitor.server import Health, fetch_health, fetch_metrics

_TICK_SECONDS = 0.1
# importing and reading a large checkpoint come before a process answers
_STARTING_SECONDS = 300.0
_MOST_UNANSWERED = 3  # times in a row that a worker which is asked at the end of the stream may stay silent
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RestartPolicy:
    """How a process that ended unexpectedly is started again.

    Attributes
    ----------
    first_seconds, maximum_seconds : float
        Wait before the first restart; doubled each time, up to the maximum.
    reset_after_seconds : float
        A process that ran that long starts from ``first_seconds`` again.
    give_up_after : int
        Consecutive failures after which a process is started again; at the next the supervisor stops everything.
    """

    first_seconds: float = 1.0
    maximum_seconds: float = 60.0
    reset_after_seconds: float = 60.0
    give_up_after: int = 10


@dataclass(frozen=True)
class StopPolicy:
    """How long each process gets to end.

    Attributes
    ----------
    ingest_seconds : float
        After that the worker is told to stop whether or not ingest has.
    grace_seconds : float
        After that what is left is killed.
    drained_seconds : float
        A worker still there that long after ingest has drained missed the news and is told to stop.
    """

    ingest_seconds: float = 10.0
    grace_seconds: float = 75.0
    drained_seconds: float = 30.0


@dataclass
class _Child:
    name: str
    command: Callable[[int], Sequence[str]]
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    started: float = 0.0
    failures: int = 0
    restart_at: float | None = None
    finished: bool = field(default=False)
    answered: bool = False  # since its last start

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Keep an ingest and a worker process alive until they are done or told to stop.

    Parameters
    ----------
    ingest, worker : callable
        Given a loopback port for its metrics, returns the command to run.
    registry : CollectorRegistry
        For the supervisor's own metrics.
    permanent_exit_codes : collection of int
        A process that ends with one of these would end so again: all is stopped and this code is returned.
    restart : RestartPolicy
    stop : StopPolicy
    notifier : Notifier or None
        Told when both processes answer, while they do, and when we stop.
    avoid_ports : collection of int
        Not for the processes' metrics: the session's own, which nobody may have bound yet.

    Attributes
    ----------
    metrics : SupervisorMetrics
    failed : callable
        Told in words whenever a process ended unexpectedly; returns at once. Set it before `run`.
    """

    def __init__(
        self,
        ingest: Callable[[int], Sequence[str]],
        worker: Callable[[int], Sequence[str]],
        *,
        registry: CollectorRegistry,
        permanent_exit_codes: Collection[int] = (),
        restart: RestartPolicy | None = None,
        stop: StopPolicy | None = None,
        notifier: Notifier | None = None,
        avoid_ports: Collection[int] = (),
    ) -> None:
        self._avoid_ports = avoid_ports
        self._ingest = _Child("ingest", ingest)
        self._worker = _Child("worker", worker)
        self._children = (self._ingest, self._worker)
        self._registry = registry
        self.metrics = SupervisorMetrics(registry)
        self._permanent = frozenset(permanent_exit_codes)
        self._restart = restart or RestartPolicy()
        self._stop_policy = stop or StopPolicy()
        self._notifier = notifier or Notifier({})
        self.failed: Callable[[str], None] = lambda _: None
        self._turn_at: float | None = time.monotonic()
        self._unanswered = 0
        self._signals = 0
        self._woken = threading.Event()
        self._exit_code = 0

    def request_stop(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:  # noqa: ARG002
        """Stop in order; the second time, kill. A signal handler; a terminal that hangs up counts once."""
        self._signals = max(1, self._signals) if number == signal.SIGHUP else self._signals + 1
        set_from_handler(self._woken)

    def run(self) -> int:
        """Run until both processes are done; return the exit code: 0 if they ended as they should."""
        with Heart(self._notifier, self.vitals):
            return self._run()

    def _run(self) -> int:
        for child in self._children:
            self._start(child)
        drained_at: float | None = None
        while not self._signals and self._exit_code == 0:
            self._turn_at = time.monotonic()
            for child in self._children:
                self._watch(child)
            if self._worker.finished:
                break
            if self._ingest.finished:
                drained_at = drained_at or time.monotonic()
                if time.monotonic() - drained_at > self._stop_policy.drained_seconds:
                    if not self._finishing():
                        _log.warning("worker did not notice the end of the stream, telling it to stop")
                        break
                    drained_at = time.monotonic()
            self._woken.wait(_TICK_SECONDS)
        self._turn_at = None
        self._notifier.send("STOPPING=1")
        self._stop_all()
        return self._exit_code

    def _finishing(self) -> bool:
        """Whether the worker has noticed the end of the stream, and makes its last sweeps over kept particles.

        One that is too busy to answer now and then is believed to; one that never answers is not.
        """
        text = fetch_metrics(self._worker.port) if self._worker.running else None
        self._unanswered = self._unanswered + 1 if text is None else 0
        if text is None:
            return self._unanswered <= _MOST_UNANSWERED
        return re.search(rb"^streamrecon_worker_finishing 1", text, re.MULTILINE) is not None

    def metrics_text(self) -> bytes:
        """Return our metrics and those of the processes that answer."""
        texts = []
        for child in self._children:
            text = fetch_metrics(child.port) if child.running else None
            self.metrics.up(child.name, text is not None)
            if text is not None:
                texts.append(text)
        return b"".join([generate_latest(self._registry), *texts])

    def health(self) -> tuple[bool, Health]:
        """Return whether each process runs, or has finished its work, and none hangs; asks them, as `vitals`."""
        vitals = Vitals(self._states(), self._turn_at)
        well = is_turning(vitals) and "down" not in vitals.children.values()
        return well, {"processes": vitals.children}

    def _states(self) -> dict[str, ChildState]:
        return {c.name: self._state_of(c) for c in self._children}

    def vitals(self) -> Vitals:
        """Return how we and the processes are; asks them, which may take seconds. For any thread."""
        text = fetch_metrics(self._worker.port) if self._worker.running else None
        return Vitals(self._states(), self._turn_at, _progress(text or b""))

    def _state_of(self, child: _Child) -> ChildState:
        if child.finished:
            return "finished"
        process, started = child.process, child.started
        if process is None or process.poll() is not None:
            return "down"
        well = fetch_health(child.port)
        if well:
            child.answered = True
            return "up"
        if process.poll() is not None:
            return "down"
        if not child.answered and time.monotonic() - started < _STARTING_SECONDS:
            return "starting"
        return "hanging"

    def _start(self, child: _Child) -> None:
        (child.port,) = unused_ports(1, avoid=self._avoid_ports)
        child.answered = False
        child.restart_at = None
        child.started = time.monotonic()
        # a session of its own: Ctrl-C in a terminal reaches us alone, and we stop them in order
        child.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streamrecon.monitor.launch",
                str(os.getpid()),
                *child.command(child.port),
            ],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        _log.info("process started", name=child.name, pid=child.process.pid, metrics_port=child.port)

    def _watch(self, child: _Child) -> None:
        now = time.monotonic()
        if child.finished or child.process is None or child.process.poll() is None:
            return
        if child.restart_at is None:
            self._ended(child, child.process.returncode, now)
        elif now >= child.restart_at:
            self.metrics.restarted(child.name)
            self._start(child)

    def _ended(self, child: _Child, code: int, now: float) -> None:
        if code == 0:
            _log.info("process finished", name=child.name)
            child.finished = True
            return
        if code in self._permanent:
            _log.error("process failed for good, stopping", name=child.name, exit_code=code)
            self.failed(f"{child.name} failed for good with exit code {code}; the daemon stops")
            self._exit_code = code
            return
        ran = now - child.started
        child.failures = 1 if ran >= self._restart.reset_after_seconds else child.failures + 1
        if child.failures > self._restart.give_up_after:
            _log.error("process fails again and again, giving up", name=child.name, failures=child.failures)
            self.failed(f"{child.name} failed {child.failures} times in a row, last with exit code {code}; giving up")
            self._exit_code = 1
            return
        wait = min(self._restart.maximum_seconds, self._restart.first_seconds * 2.0 ** (child.failures - 1))
        child.restart_at = now + wait
        _log.warning("process ended, restarting", name=child.name, exit_code=code, seconds=wait)
        self.failed(f"{child.name} ended unexpectedly with exit code {code}; it is started again in {wait:g} s")

    def _stop_all(self) -> None:
        signals = self._signals
        began = time.monotonic()
        if self._ingest.running:
            self._send(self._ingest, signal.SIGTERM)
            self._wait_until(began + self._stop_policy.ingest_seconds, [self._ingest], signals)
        if self._worker.running:
            self._send(self._worker, signal.SIGTERM)
        self._wait_until(began + self._stop_policy.grace_seconds, self._children, signals)
        for child in self._children:
            if child.running:
                _log.error("process killed", name=child.name)
                self._send(child, signal.SIGKILL)
                self._exit_code = self._exit_code or 1
            if child.process is not None:
                code = child.process.wait()
                # one that failed while stopping has something to say; one that waits for a restart had before
                if child.restart_at is None and code > 0:
                    self._exit_code = self._exit_code or code

    def _wait_until(self, deadline: float, children: Sequence[_Child], signals: int) -> None:
        """Wait for children to end, until a deadline or one more signal than there was."""
        while any(c.running for c in children) and time.monotonic() < deadline:
            if self._signals > max(1, signals):
                return
            time.sleep(_TICK_SECONDS / 2)

    def _send(self, child: _Child, number: signal.Signals) -> None:
        if child.process is not None and child.process.poll() is None:
            child.process.send_signal(number)


def _progress(metrics: bytes) -> str:
    """Return a few words on the reconstruction from the worker's metrics."""
    found = dict(re.findall(rb"^streamrecon_worker_(particles_seen|resolution_angstrom) (\S+)$", metrics, re.MULTILINE))
    words = []
    if b"particles_seen" in found:
        words.append(f"{float(found[b'particles_seen']):.0f} particles")
        resolution = float(found.get(b"resolution_angstrom", b"nan"))
        words += [f"{resolution:.1f} A"] if math.isfinite(resolution) else []
    return ", ".join(words)
