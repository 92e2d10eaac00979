"""The ingest process: one loop that watches, collects, makes batches and serves them."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from streamrecon.ingest.batcher import MAX_QUEUED_BATCHES, Batcher
from streamrecon.ingest.collect import Collector
from streamrecon.ingest.feed import FeedServer
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.ledger_errors import ledger_error
from streamrecon.ingest.metrics import IngestMetrics, NoIngestMetrics
from streamrecon.ingest.root import WatchedRoot
from streamrecon.ingest.scan import Wanted
from streamrecon.ingest.tracked import CollectSettings
from streamrecon.ingest.watch import Watcher
from streamrecon.transport.keys import ServerKeys

_log = structlog.get_logger(__name__)
_STEP_SECONDS = 0.05
_METRICS_SECONDS = 1.0
_FAREWELL_SECONDS = 5.0


@dataclass(frozen=True)
class IngestSettings:
    """What the ingest process needs to know; defaults and meaning are those of config.toml."""

    root: Path
    output_dir: Path
    session_name: str = "session"
    manifest_patterns: tuple[str, ...] = ("*.star", "*.cs")
    watch_mode: Literal["auto", "events", "polling"] = "auto"
    settle_seconds: float = 2.0
    scan_seconds: float = 10.0
    orphan_seconds: float = 600.0
    require_ctf: bool = True
    endpoint: str = "tcp://127.0.0.1:8760"
    batch_size: int = 100
    batch_wait_seconds: float = 5.0
    lease_seconds: float = 120.0
    max_queued_batches: int = MAX_QUEUED_BATCHES
    curve: ServerKeys | None = None


class IngestService:
    """Everything ingest does, wired up.

    Parameters
    ----------
    settings : IngestSettings
    metrics : IngestMetrics or None

    Raises
    ------
    StateError
        The ledger cannot be used (network file system, another ingester, damaged).
    TransportError
        The endpoint is taken.

    Attributes
    ----------
    ledger : Ledger
    endpoint : str
        The one listened on, with its port.
    turn_at : float
        Monotonic time at which the loop last came round.
    """

    def __init__(self, settings: IngestSettings, metrics: IngestMetrics | None = None) -> None:
        self._settings = settings
        self._metrics = metrics or NoIngestMetrics()
        root = _absolute(settings.root)
        output = _absolute(settings.output_dir)
        self.ledger = Ledger(output / LEDGER_NAME, settings.session_name)
        self._root = WatchedRoot(root, self.ledger.good_files)
        try:
            self._feed = FeedServer(
                self.ledger, self._root, settings.endpoint, settings.lease_seconds, self._metrics, curve=settings.curve
            )
        except sqlite3.Error as error:
            self.ledger.close()
            raise ledger_error(self.ledger.path, error) from error
        except BaseException:
            self.ledger.close()
            raise
        self.endpoint = self._feed.endpoint
        wanted = Wanted(root, settings.manifest_patterns, exclude=() if output == root else (output,))
        self._watcher = Watcher(wanted, settings.watch_mode, settings.scan_seconds, self._root)
        self._collector = Collector(
            wanted,
            CollectSettings(settings.settle_seconds, settings.orphan_seconds, settings.require_ctf),
            self.ledger,
            self._metrics,
        )
        self._batcher = Batcher(
            self.ledger,
            self._metrics,
            settings.batch_size,
            settings.batch_wait_seconds,
            settings.max_queued_batches,
        )
        self._next_metrics = 0.0
        self.turn_at = time.monotonic()

    def run(self, stop: threading.Event, until_idle: float | None = None) -> None:
        """Serve until ``stop`` is set.

        Parameters
        ----------
        stop : threading.Event
            Looked at many times a second.
        until_idle : float or None, seconds
            Stop too, with Drained to every worker, once everything seen is folded and nothing new came for
            this long, counted from the first file on. A file that is not ready by then (an orphan, a stack that
            does not grow) is not waited for.

        Raises
        ------
        StateUnwritable
            The disk of the ledger is full; what is in the ledger is safe. `serve` begins anew then.
        LedgerCorrupt
            The ledger was cut or altered while it was open.
        """
        _log.info(
            "ingest_started",
            root=str(self._settings.root),
            ledger=str(self.ledger.path),
            endpoint=self.endpoint,
            session=self.ledger.session,
        )
        self._metrics.ledger_writable(True)
        try:
            while not stop.is_set():
                if self._step(until_idle):
                    self._say_farewell(stop)
                    _log.info("ingest_drained", **self.ledger.counts().particles)
                    break
        except sqlite3.Error as error:
            raise ledger_error(self.ledger.path, error) from error
        finally:
            self.close()
        _log.info("ingest_stopped")

    def close(self) -> None:
        """Close sockets, watches and the ledger; may be called again."""
        self._watcher.stop()
        self._feed.close()
        self.ledger.close()

    def _step(self, until_idle: float | None) -> bool:
        """Do one round; return True if the stream is idle and over."""
        now = self.turn_at = time.monotonic()
        if self._feed.drain_asked:
            return self._drain(now)
        # Hints first: what changes during the scan is a hint for the next round.
        self._collector.take_changes(self._watcher.changed(), now)
        if self._watcher.scan_due(now):
            self._scan(now)
        busy = self._collector.step(now)
        quiet = until_idle is not None and not busy and now - self._collector.changed_at >= self._patience(until_idle)
        self._batcher.make(now, flush=quiet)
        self._feed.poll(0.0 if busy else _STEP_SECONDS)
        if now >= self._next_metrics:
            self._next_metrics = now + _METRICS_SECONDS
            self._obey_requests(now)
            self._report()
        if quiet and self._all_folded():
            # Events are hints: only a scan can say that there is nothing new.
            changed_at = self._collector.changed_at
            self._scan(time.monotonic())
            return self._collector.changed_at == changed_at
        return False

    def _drain(self, now: float) -> bool:
        """Serve what the ledger holds and look at nothing new; return True once all of it is folded."""
        self._batcher.make(now, flush=True)
        self._feed.poll(_STEP_SECONDS)
        if now >= self._next_metrics:
            self._next_metrics = now + _METRICS_SECONDS
            self._report()
        return self._all_folded()

    def _obey_requests(self, now: float) -> None:
        """Do what people have asked for through `streamrecon quarantine`, now or while nobody was here."""
        for request in self.ledger.retry_requests():
            with self.ledger.transaction():
                self._collector.retry(request.path, request.identity, now)
                self.ledger.finish_request(request)
            self._metrics.retried()
            _log.info("quarantine_retried", name=request.path, identity=request.identity)

    def _scan(self, now: float) -> None:
        began = time.thread_time()
        scan = self._watcher.scan(now)
        self._collector.take_scan(scan, now)
        self._watcher.scanned(now, time.thread_time() - began)
        self._metrics.scan_seconds(time.monotonic() - now)
        self._metrics.watch_mode(self._watcher.mode)

    def _say_farewell(self, stop: threading.Event) -> None:
        """Say Drained, and stay until the workers have left, or for so long that they must have heard it."""
        self._feed.drain()
        end = time.monotonic() + _FAREWELL_SECONDS
        while self._feed.worker_count and time.monotonic() < end and not stop.is_set():
            self._feed.poll(_STEP_SECONDS)

    def _patience(self, until_idle: float) -> float:
        """Nothing can be called idle before a settled file would have been noticed."""
        patience = max(until_idle, 2 * self._settings.settle_seconds)
        return patience + (self._watcher.interval_seconds if self._watcher.mode == "polling" else 0.0)

    def _all_folded(self) -> bool:
        counts = self.ledger.counts(files=False).particles
        return counts["ready"] == counts["queued"] == 0

    def _report(self) -> None:
        counts = self.ledger.counts(files=False)
        particles = counts.particles
        self._metrics.root_present(self._root.present)
        self._metrics.particles(particles["ready"], particles["queued"], particles["folded"])
        self._metrics.queue_depth(counts.batches.get("queued", 0))
        self._metrics.quarantine(self.ledger.open_kinds(), counts.quarantine["dismissed"])
        oldest = self.ledger.oldest_unfolded_at()
        self._metrics.lag_seconds(0.0 if oldest is None else max(0.0, time.time() - oldest))


def _absolute(path: Path) -> Path:
    # not resolve(): names are what manifests and people know, a linked folder keeps its own
    return Path(os.path.abspath(path))  # noqa: PTH100
