"""Ingest for as long as it is wanted: where the ledger's disk is full, wait for room and begin anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from streamrecon.errors import StateUnwritable
from streamrecon.ingest.metrics import IngestMetrics
from streamrecon.ingest.service import IngestService

_log = structlog.get_logger(__name__)
RETRY_SECONDS = 2.0
_REMIND_SECONDS = 300.0


class Ingest:
    """Runs one `IngestService` after the other, until one has ended as it should.

    Parameters
    ----------
    make : callable
        Makes a service.
    metrics : IngestMetrics
    retry_seconds : float

    Notes
    -----
    Beginning anew is what happens after a crash, too: all that matters is in the ledger and in the watched folder.
    While there is no room the feed is closed. The worker keeps what it holds and says Hello once it is open again.
    """

    def __init__(
        self, make: Callable[[], IngestService], metrics: IngestMetrics, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._make = make
        self._metrics = metrics
        self._retry_seconds = retry_seconds
        self._service: IngestService | None = None
        self._turn_at = time.monotonic()
        self._reminded_at: float | None = None
        self.waiting_for = ""

    @property
    def turn_at(self) -> float:
        """Return the monotonic time at which something last went on; waiting for room counts."""
        return self._turn_at if self._service is None else self._service.turn_at

    def run(self, stop: threading.Event, until_idle: float | None = None) -> None:
        """Serve until ``stop`` is set or, with ``until_idle``, the stream has ended; see `IngestService.run`.

        Raises
        ------
        StateError, TransportError
            As in `IngestService`, but for a ledger that cannot be written just now.
        """
        while not stop.is_set():
            began = time.monotonic()
            try:
                self._service = self._make()
                self.waiting_for = ""
                self._service.run(stop, until_idle)
                return
            except StateUnwritable as error:
                self._note(error, time.monotonic() - began)
            finally:
                self._turn_at = time.monotonic()
                self._service = None
            stop.wait(self._retry_seconds)

    def _note(self, error: StateUnwritable, ran_seconds: float) -> None:
        self.waiting_for = str(error)
        self._metrics.ledger_writable(False)
        now = time.monotonic()
        # a disk that is nearly full takes some writes and refuses others: once in the log is enough
        if self._reminded_at is None or ran_seconds >= _REMIND_SECONDS or now - self._reminded_at >= _REMIND_SECONDS:
            self._reminded_at = now
            _log.error("ledger_not_writable", reason=str(error), retry_seconds=self._retry_seconds)
