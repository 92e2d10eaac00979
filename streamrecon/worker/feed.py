"""What the worker's loop needs of the ingester's end of the wire."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from streamrecon.particles import ParticleBatch


class Feed(Protocol):
    """What the worker needs of `streamrecon.transport.feed_client.FeedClient`."""

    @property
    def session(self) -> str:
        """Return the ledger's session, "" while unknown."""

    @property
    def paused(self) -> bool:
        """Return True while nothing is queued."""

    @property
    def drained(self) -> bool:
        """Return True once nothing more will come."""

    def link(self, batch_id: int) -> str:
        """Return the link in the ledger's chain of a batch that was handed out, "" if it is not known."""

    def poll(self, timeout_seconds: float) -> tuple[int, ParticleBatch] | None:
        """Return the next batch, None if none comes in time."""

    def ack(self, batch_ids: Iterable[int]) -> None:
        """Say that these batches are durable."""

    def nack(self, batch_id: int, kind: str, reason: str) -> None:
        """Give back a batch that cannot be used."""

    def drain(self) -> None:
        """Ask that nothing new be taken, and that the stream end once everything is folded."""
