"""The metrics of the ingest process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Histogram

from streamrecon.ingest.metrics import DROP_REASONS, FILE_STATES, QUARANTINE_KINDS
from streamrecon.monitor.naming import OTHER, info_of, makers, one_of, resident_memory
from streamrecon.transport.handshake import REFUSAL_REASONS


class IngestMetricsExporter:
    """What ingest tells (`streamrecon.ingest.metrics.IngestMetrics`), for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = makers(registry, "ingest")
        self._stacks_ready = counter("stacks_ready_total", "Stacks found complete since the process started.")
        self._particles_ready_total = counter(
            "particles_ready_total",
            "Particles of stacks found complete since the process started; its rate is the microscope's.",
        )
        self._stacks_copied = counter(
            "stacks_copied_total", "Stacks found to hold images that another stack has; such images count once."
        )
        self._batches_queued = counter("batches_queued_total", "Batches put in the queue.")
        self._particles_queued_total = counter("particles_queued_total", "Particles put in the queue.")
        self._batches_folded = counter(
            "batches_folded_total",
            "Batches a worker has acknowledged: they are in one of its durable checkpoints.",
        )
        self._particles_folded_total = counter(
            "particles_folded_total", "Particles of acknowledged batches; comes in jumps, one a checkpoint."
        )
        self._quarantined = counter(
            "quarantined_total",
            "Files and rows set aside, by kind of error. The session goes on; the log has each.",
            ("kind",),
        )
        self._quarantine_open = gauge(
            "quarantine_open",
            "Files and rows set aside that wait for a person, by kind of error; see streamrecon quarantine.",
            ("kind",),
        )
        self._quarantine_dismissed = gauge("quarantine_dismissed", "Files and rows set aside that a person has seen.")
        self._retried = counter("quarantine_retries_total", "Files and rows a person asked to be looked at again.")
        self._files = gauge(
            "files",
            "Stacks and manifests by state. Many settling: the writer is slow or settle_seconds too long.",
            ("type", "state"),
        )
        self._orphans = gauge("orphans", "Stacks without manifest, or the reverse, after orphan_seconds.")
        self._particles = gauge(
            "particles",
            "Particles by state: ready (waits for a batch), queued (in a batch, lent or not), folded.",
            ("state",),
        )
        self._queue_depth = gauge(
            "queue_batches",
            "Batches that wait for a worker. Growing for minutes: the worker is slower than the microscope.",
        )
        self._lag = gauge(
            "lag_seconds",
            "Age of the oldest particle that is ready and not yet folded: how far the map is behind.",
        )
        self._scan = Histogram(
            "streamrecon_ingest_scan_seconds",
            "Duration of a reconciling scan of the watched folder.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
            registry=registry,
        )
        self._mode = gauge("watch_mode", "1 for the way changes are noticed: events or polling.", ("mode",))
        self._root = gauge(
            "root_present", "1 while the watched folder is there, 0 while it is not, or is an empty mount point."
        )
        self._ledger = gauge(
            "ledger_writable", "1 while the ledger can be written, 0 while ingest waits for room on its disk."
        )
        self._workers = gauge("workers", "Workers heard of within their lease.")
        self._leases = counter(
            "leases_expired_total", "Batches that went back to the queue because their worker fell silent."
        )
        self._dropped = counter(
            "messages_dropped_total", "Messages on the feed that could not be used, by reason.", ("reason",)
        )
        self._refused = counter(
            "peers_refused_total",
            "Connections to the feed refused, by reason: an unknown key, plaintext, a failed handshake.",
            ("reason",),
        )
        for reason in (*REFUSAL_REASONS, OTHER):
            self._refused.labels(reason)
        for kind in (*QUARANTINE_KINDS, OTHER):
            self._quarantined.labels(kind)
            self._quarantine_open.labels(kind)
        for what in ("stack", "manifest"):
            for state in FILE_STATES:
                self._files.labels(what, state)
        for state in ("ready", "queued", "folded"):
            self._particles.labels(state)
        for mode in ("events", "polling"):
            self._mode.labels(mode)
        for reason in (*DROP_REASONS, OTHER):
            self._dropped.labels(reason)
        resident_memory(registry, "ingest")
        info_of(registry, "ingest")

    def stack_ready(self, particles: int) -> None:
        """Count one stack that became ready."""
        self._stacks_ready.inc()
        self._particles_ready_total.inc(particles)

    def stack_copied(self) -> None:
        """Count one stack that holds images of another."""
        self._stacks_copied.inc()

    def batch_queued(self, particles: int) -> None:
        """Count one batch put in the queue."""
        self._batches_queued.inc()
        self._particles_queued_total.inc(particles)

    def batch_folded(self, particles: int) -> None:
        """Count one acknowledged batch."""
        self._batches_folded.inc()
        self._particles_folded_total.inc(particles)

    def quarantined(self, kind: str) -> None:
        """Count one file or row that was set aside."""
        self._quarantined.labels(one_of(kind, QUARANTINE_KINDS)).inc()

    def quarantine(self, open_kinds: Mapping[str, int], dismissed: int) -> None:
        """Set how many that were set aside wait for a person, by kind, and how many do not."""
        counts = dict.fromkeys((*QUARANTINE_KINDS, OTHER), 0)
        for kind, count in open_kinds.items():
            counts[one_of(kind, QUARANTINE_KINDS)] += count
        for kind, count in counts.items():
            self._quarantine_open.labels(kind).set(count)
        self._quarantine_dismissed.set(dismissed)

    def retried(self) -> None:
        """Count one file or row to be looked at again."""
        self._retried.inc()

    def files(self, what: Literal["stack", "manifest"], state: str, count: int) -> None:
        """Set how many stacks or manifests are in a state."""
        if state in FILE_STATES:
            self._files.labels(what, state).set(count)

    def orphans(self, count: int) -> None:
        """Set how many files wait without their counterpart."""
        self._orphans.set(count)

    def particles(self, ready: int, queued: int, folded: int) -> None:
        """Set how many particles are in each state."""
        for state, count in (("ready", ready), ("queued", queued), ("folded", folded)):
            self._particles.labels(state).set(count)

    def queue_depth(self, batches: int) -> None:
        """Set how many batches wait."""
        self._queue_depth.set(batches)

    def lag_seconds(self, seconds: float) -> None:
        """Set the age of the oldest unfolded particle."""
        self._lag.set(seconds)

    def scan_seconds(self, seconds: float) -> None:
        """Take the duration of one scan."""
        self._scan.observe(seconds)

    def watch_mode(self, mode: Literal["events", "polling"]) -> None:
        """Say how changes are noticed now."""
        for known in ("events", "polling"):
            self._mode.labels(known).set(known == mode)

    def root_present(self, present: bool) -> None:
        """Say whether the watched root is there."""
        self._root.set(present)

    def ledger_writable(self, writable: bool) -> None:
        """Say whether the ledger can be written."""
        self._ledger.set(writable)

    def workers(self, count: int) -> None:
        """Set how many workers are there."""
        self._workers.set(count)

    def lease_expired(self, batches: int) -> None:
        """Count batches that went back."""
        self._leases.inc(batches)

    def message_dropped(self, reason: str) -> None:
        """Count one message that could not be used."""
        self._dropped.labels(one_of(reason, DROP_REASONS)).inc()

    def peer_refused(self, reason: str) -> None:
        """Count one connection that was refused."""
        self._refused.labels(one_of(reason, REFUSAL_REASONS)).inc()
