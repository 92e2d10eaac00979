"""Every metric of the project: what it is called, what it means, which labels it can have.

Base units (angstrom excepted), ratios from 0 to 1, no label that grows, and every labelled child exists
from the start: an alert on a series that is not there yet would never fire. Each process has its own
registry; their texts can be put one behind the other because no two processes share a name.
"""

from __future__ import annotations

import time
from typing import Literal, Protocol, TypeVar

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)

from streamrecon import __version__, errors
from streamrecon.ingest.metrics import DROP_REASONS, FILE_STATES, QUARANTINE_KINDS
from streamrecon.reconstruct.results import BatchResult, EngineStatus

disable_created_metrics()  # type: ignore[no-untyped-call]

STAGES = ("waiting", "searching", "settled")
FSC_KINDS = ("common", "independent")
PROCESSES = ("ingest", "worker")
OTHER = "other"
_Metric_co = TypeVar("_Metric_co", covariant=True)
_STEP_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


def error_kinds() -> tuple[str, ...]:
    """Return the kind of every error of the tree, sorted, and "other" for what is not one of ours."""
    kinds, todo = {OTHER}, [errors.StreamReconError]
    while todo:
        kind = todo.pop()
        kinds.add(kind("").kind)
        todo.extend(kind.__subclasses__())
    return tuple(sorted(kinds))


ERROR_KINDS = error_kinds()


def _one_of(value: str, known: tuple[str, ...]) -> str:
    """Return the value if it is a known label value, else "other": labels never grow."""
    return value if value in known else OTHER


class _Maker(Protocol[_Metric_co]):
    def __call__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> _Metric_co: ...


def _makers(registry: CollectorRegistry, subsystem: str) -> tuple[_Maker[Counter], _Maker[Gauge]]:
    """Return what makes the counters and the gauges of one process."""

    def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"streamrecon_{subsystem}_{name}", text, labels, registry=registry)

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"streamrecon_{subsystem}_{name}", text, labels, registry=registry)

    return counter, gauge


def _resident_memory(registry: CollectorRegistry, subsystem: str) -> None:
    gauge = Gauge(
        f"streamrecon_{subsystem}_resident_memory_bytes",
        f"Memory of the {subsystem} process that is in RAM; it should stand still over hours.",
        registry=registry,
    )
    process = psutil.Process()
    gauge.set_function(lambda: float(process.memory_info().rss))


def _info(registry: CollectorRegistry, subsystem: str) -> None:
    info = Info(f"streamrecon_{subsystem}_build", "Which release this process runs.", registry=registry)
    info.info({"version": __version__})


class IngestMetricsExporter:
    """What ingest tells (`streamrecon.ingest.metrics.IngestMetrics`), for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = _makers(registry, "ingest")
        self._stacks_ready = counter("stacks_ready_total", "Stacks found complete since the process started.")
        self._particles_ready_total = counter(
            "particles_ready_total",
            "Particles of stacks found complete since the process started; its rate is the microscope's.",
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
            "root_present", "1 while the watched folder is there, 0 while it is not (an unmounted disk)."
        )
        self._workers = gauge("workers", "Workers heard of within their lease.")
        self._leases = counter(
            "leases_expired_total", "Batches that went back to the queue because their worker fell silent."
        )
        self._dropped = counter(
            "messages_dropped_total", "Messages on the feed that could not be used, by reason.", ("reason",)
        )
        for kind in (*QUARANTINE_KINDS, OTHER):
            self._quarantined.labels(kind)
        for what in ("stack", "manifest"):
            for state in FILE_STATES:
                self._files.labels(what, state)
        for state in ("ready", "queued", "folded"):
            self._particles.labels(state)
        for mode in ("events", "polling"):
            self._mode.labels(mode)
        for reason in (*DROP_REASONS, OTHER):
            self._dropped.labels(reason)
        _resident_memory(registry, "ingest")
        _info(registry, "ingest")

    def stack_ready(self, particles: int) -> None:
        """Count one stack that became ready."""
        self._stacks_ready.inc()
        self._particles_ready_total.inc(particles)

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
        self._quarantined.labels(_one_of(kind, QUARANTINE_KINDS)).inc()

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

    def workers(self, count: int) -> None:
        """Set how many workers are there."""
        self._workers.set(count)

    def lease_expired(self, batches: int) -> None:
        """Count batches that went back."""
        self._leases.inc(batches)

    def message_dropped(self, reason: str) -> None:
        """Count one message that could not be used."""
        self._dropped.labels(_one_of(reason, DROP_REASONS)).inc()


class WorkerMetrics:
    """What the worker tells, for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = _makers(registry, "worker")
        self._particles = counter(
            "particles_folded_total", "Particles folded into the map by this process, each counted once."
        )
        self._visits = counter(
            "image_visits_total",
            "Times an image was looked at; more than the particles where some are revisited.",
        )
        self._batches = counter("batches_folded_total", "Mini-batches folded.")
        self._duplicates = counter(
            "batches_dropped_total",
            "Batches delivered again that the checkpoint already held; normal after a restart.",
        )
        self._step = Histogram(
            "streamrecon_worker_step_seconds",
            "Time to fold one mini-batch.",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self._evaluations = counter(
            "pose_evaluations_total", "Poses scored over the whole band; divide by image visits."
        )
        self._seen = gauge("particles_seen", "Particles in the map, over all restarts of the session.")
        self._resolution = gauge(
            "resolution_angstrom",
            "Where the half-set FSC falls below 0.143; fsc_kind says how honest that is. NaN: not yet.",
        )
        self._fsc_kind = gauge(
            "fsc_kind",
            "1 for the kind: common (halves posed on one map: optimistic) or independent (gold standard).",
            ("kind",),
        )
        self._k_max = gauge("k_max_shells", "Finest Fourier shell in use; grows with the map.")
        self._temperature = gauge(
            "temperature_ratio",
            "Annealing temperature of the pose posterior; 1 once the search has settled.",
        )
        self._ess = gauge(
            "effective_sample_size",
            "Mean number of poses an image's posterior is spread over; near 1: poses are certain.",
        )
        self._entropy = gauge(
            "coarse_entropy_nats", "Mean entropy of the coarse pose posterior; below 1 counts as settled."
        )
        self._evidence = gauge(
            "log_evidence_nats",
            "Mean log likelihood ratio of an image to noise alone. Falling: worse particles, or none.",
        )
        self._rate = gauge("images_per_second", "Images folded a second, over the last mini-batches.")
        self._evaluations_per_image = gauge(
            "evaluations_per_image", "Poses scored over the whole band for an image of the last mini-batch."
        )
        self._stage = gauge("stage", "1 for the present stage of the reconstruction.", ("stage",))
        self._unacknowledged = gauge("unacknowledged_batches", "Batches folded and not yet in a durable checkpoint.")
        self._snapshots = counter("snapshots_total", "Snapshots written and published.")
        self._snapshot_seconds = gauge("snapshot_write_seconds", "Time the last snapshot took.")
        self._checkpoints = counter("checkpoints_total", "Durable checkpoints.")
        self._checkpoint_age = gauge(
            "checkpoint_age_seconds",
            "Since the last durable checkpoint (or the start): what a crash costs.",
        )
        self._checkpoint_bytes = gauge("checkpoint_bytes", "Size of the last checkpoint.")
        self._checkpoint_seconds = gauge("checkpoint_write_seconds", "Time the last checkpoint took to write.")
        self._errors = counter("errors_total", "Errors by kind; the session went on where it could.", ("kind",))
        self._subscribers = gauge("subscribers", "Programs that follow the published events.")
        for kind in ERROR_KINDS:
            self._errors.labels(kind)
        for stage in (*STAGES, OTHER):
            self._stage.labels(stage)
        for kind in (*FSC_KINDS, OTHER):
            self._fsc_kind.labels(kind)
        self._resolution.set(float("nan"))
        self._stage.labels("waiting").set(1)
        self._last_checkpoint = time.monotonic()
        self._checkpoint_age.set_function(lambda: time.monotonic() - self._last_checkpoint)
        _resident_memory(registry, "worker")
        _info(registry, "worker")

    def status(self, status: EngineStatus) -> None:
        """Set every gauge that follows the engine."""
        self._seen.set(status.particles_seen)
        self._resolution.set(status.resolution_angstrom)
        self._k_max.set(status.k_max)
        self._temperature.set(status.temperature)
        self._ess.set(status.effective_sample_size)
        self._entropy.set(status.coarse_entropy)
        self._evidence.set(status.log_evidence)
        self._rate.set(status.images_per_second)
        self._evaluations_per_image.set(status.evaluations_per_image)
        for known in (*STAGES, OTHER):
            self._stage.labels(known).set(known == _one_of(status.stage, STAGES))
        for known in (*FSC_KINDS, OTHER):
            self._fsc_kind.labels(known).set(known == _one_of(status.fsc_kind, FSC_KINDS))

    def batch_folded(self, result: BatchResult, visits: int) -> None:
        """Count a folded batch; ``visits`` are the image visits it cost."""
        self._batches.inc()
        self._particles.inc(len(result.pose_weight))
        self._visits.inc(visits)
        self._evaluations.inc(result.evaluations)
        self._step.observe(result.step_seconds)

    def batch_dropped(self) -> None:
        """Count a batch that the state already holds."""
        self._duplicates.inc()

    def unacknowledged(self, batches: int) -> None:
        """Set how many folded batches are not yet durable."""
        self._unacknowledged.set(batches)

    def snapshot_written(self, seconds: float) -> None:
        """Count a snapshot."""
        self._snapshots.inc()
        self._snapshot_seconds.set(seconds)

    def checkpoint_durable(self, size: int, seconds: float) -> None:
        """Count a durable checkpoint."""
        self._checkpoints.inc()
        self._checkpoint_bytes.set(size)
        self._checkpoint_seconds.set(seconds)
        self._last_checkpoint = time.monotonic()

    def error(self, error: Exception) -> None:
        """Count an error by its kind."""
        kind = error.kind if isinstance(error, errors.StreamReconError) else OTHER
        self._errors.labels(_one_of(kind, ERROR_KINDS)).inc()

    def subscribers(self, count: int) -> None:
        """Set how many programs follow."""
        self._subscribers.set(count)


class SupervisorMetrics:
    """What `streamrecon run` tells, for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = _makers(registry, "supervisor")
        self._up = gauge(
            "process_up",
            "1 while the process runs and answers; at 0 its own metrics are missing from this page.",
            ("process",),
        )
        self._restarts = counter(
            "process_restarts_total",
            "Times the process ended unexpectedly and was started again.",
            ("process",),
        )
        for process in PROCESSES:
            self._up.labels(process)
            self._restarts.labels(process)
        _resident_memory(registry, "supervisor")
        _info(registry, "supervisor")

    def up(self, process: str, is_up: bool) -> None:
        """Say whether a process runs."""
        self._up.labels(process).set(is_up)

    def restarted(self, process: str) -> None:
        """Count a restart."""
        self._restarts.labels(process).inc()
