"""What ingest counts: a protocol, so that monitor/ can serve it without ingest knowing how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

FILE_STATES = ("seen", "settling", "ready", "orphan", "quarantined")
QUARANTINE_KINDS = (
    "stack_incomplete",
    "stack_corrupt",
    "stack_missing",
    "manifest_mismatch",
    "unsupported_format",
    "ingest_error",
    "numerical_error",
)
DROP_REASONS = ("garbage", "oversize", "version", "unknown_worker")


class IngestMetrics(Protocol):
    """Told by ingest as things happen; every method returns at once and never raises.

    Labels take their values from `FILE_STATES`, `QUARANTINE_KINDS` and `DROP_REASONS`, so that each child
    can be created at start.
    """

    def stack_ready(self, particles: int) -> None:
        """Count one stack that became ready with that many new particles."""

    def stack_copied(self) -> None:
        """Count one stack that holds images which another has: they count once."""

    def batch_queued(self, particles: int) -> None:
        """Count one batch of that many particles put in the queue."""

    def batch_folded(self, particles: int) -> None:
        """Count one batch of that many particles that a worker holds in a durable checkpoint."""

    def quarantined(self, kind: str) -> None:
        """Count one file or row that was set aside; one of `QUARANTINE_KINDS`."""

    def quarantine(self, open_kinds: Mapping[str, int], dismissed: int) -> None:
        """Set how many files and rows that were set aside wait for a person, by kind, and how many do not."""

    def retried(self) -> None:
        """Count one file or row that a person asked to be looked at again."""

    def files(self, what: Literal["stack", "manifest"], state: str, count: int) -> None:
        """Set how many stacks or manifests are in a state; one of `FILE_STATES`."""

    def orphans(self, count: int) -> None:
        """Set how many stacks and manifests wait without their counterpart."""

    def particles(self, ready: int, queued: int, folded: int) -> None:
        """Set how many particles wait for a batch, stand in a batch (leased or not), are folded."""

    def queue_depth(self, batches: int) -> None:
        """Set how many batches wait for a worker (leased ones do not)."""

    def lag_seconds(self, seconds: float) -> None:
        """Set the age of the oldest particle that is ready but not folded; 0 when there is none."""

    def scan_seconds(self, seconds: float) -> None:
        """Take the duration of one reconciling scan."""

    def watch_mode(self, mode: Literal["events", "polling"]) -> None:
        """Say how changes are noticed now."""

    def root_present(self, present: bool) -> None:
        """Say whether the watched root is there."""

    def ledger_writable(self, writable: bool) -> None:
        """Say whether the ledger can be written: not while its disk is full."""

    def workers(self, count: int) -> None:
        """Set how many workers were heard of within their lease."""

    def lease_expired(self, batches: int) -> None:
        """Count batches that went back to the queue because their worker fell silent."""

    def message_dropped(self, reason: str) -> None:
        """Count one message that could not be used; one of `DROP_REASONS`."""

    def peer_refused(self, reason: str) -> None:
        """Count one connection that was refused; one of `streamrecon.transport.handshake.REFUSAL_REASONS`."""


class NoIngestMetrics:
    """Counts nothing."""

    def stack_ready(self, particles: int) -> None:
        """Ignore it."""

    def stack_copied(self) -> None:
        """Ignore it."""

    def batch_queued(self, particles: int) -> None:
        """Ignore it."""

    def batch_folded(self, particles: int) -> None:
        """Ignore it."""

    def quarantined(self, kind: str) -> None:
        """Ignore it."""

    def quarantine(self, open_kinds: Mapping[str, int], dismissed: int) -> None:
        """Ignore it."""

    def retried(self) -> None:
        """Ignore it."""

    def files(self, what: Literal["stack", "manifest"], state: str, count: int) -> None:
        """Ignore it."""

    def orphans(self, count: int) -> None:
        """Ignore it."""

    def particles(self, ready: int, queued: int, folded: int) -> None:
        """Ignore it."""

    def queue_depth(self, batches: int) -> None:
        """Ignore it."""

    def lag_seconds(self, seconds: float) -> None:
        """Ignore it."""

    def scan_seconds(self, seconds: float) -> None:
        """Ignore it."""

    def watch_mode(self, mode: Literal["events", "polling"]) -> None:
        """Ignore it."""

    def root_present(self, present: bool) -> None:
        """Ignore it."""

    def ledger_writable(self, writable: bool) -> None:
        """Ignore it."""

    def workers(self, count: int) -> None:
        """Ignore it."""

    def lease_expired(self, batches: int) -> None:
        """Ignore it."""

    def message_dropped(self, reason: str) -> None:
        """Ignore it."""

    def peer_refused(self, reason: str) -> None:
        """Ignore it."""
