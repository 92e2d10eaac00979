"""When ready particles become a batch: full ones at once, a partial one after a while or at the end."""

from __future__ import annotations

from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.metrics import IngestMetrics

MAX_QUEUED_BATCHES = 1000


class Batcher:
    """Makes batches from the ledger's ready particles, oldest first.

    Parameters
    ----------
    ledger : Ledger
    metrics : IngestMetrics
    batch_size : int
    batch_wait_seconds : float
        A partial batch is made when its particles have waited this long.
    max_queued : int
        With so many batches waiting for a worker no more are made; particles wait as rows.
    """

    def __init__(
        self,
        ledger: Ledger,
        metrics: IngestMetrics,
        batch_size: int,
        batch_wait_seconds: float,
        max_queued: int = MAX_QUEUED_BATCHES,
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._batch_size = batch_size
        self._wait_seconds = batch_wait_seconds
        self._max_queued = max_queued
        self._partial_since: float | None = None

    def make(self, now: float, *, flush: bool = False) -> list[int]:
        """Make the batches that are due and return their ids; ``flush`` does not wait for full ones."""
        # one transaction for all: each costs a sync of the disk
        with self._ledger.transaction():
            return self._make(now, flush)

    def _make(self, now: float, flush: bool) -> list[int]:
        batches = self._ledger.batches
        made: list[int] = []
        room = self._max_queued - batches.count("queued")
        while len(made) < room:
            rows = batches.ready_rows(self._batch_size)
            if not rows:
                self._partial_since = None
                break
            box_size = rows[0][1].optics.box_size
            same = next((i for i, (_, row) in enumerate(rows) if row.optics.box_size != box_size), len(rows))
            # A group that another box size follows will never be full.
            if same == len(rows) < self._batch_size and not flush:
                if self._partial_since is None:
                    self._partial_since = now
                if now - self._partial_since < self._wait_seconds:
                    break
            made.append(batches.create(rows[:same]))
            self._metrics.batch_queued(same)
            self._partial_since = None
        return made
