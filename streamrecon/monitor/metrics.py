"""Every metric of the project: what it is called, what it means, which labels it can have.

Base units (angstrom excepted), ratios from 0 to 1, no label that grows, and every labelled child exists
from the start: an alert on a series that is not there yet would never fire. Each process has its own
registry; their texts can be put one behind the other because no two processes share a name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Histogram

from streamrecon import errors
from streamrecon.assess.report import Assessment
from streamrecon.monitor.assessment_metrics import AssessmentGauges
from streamrecon.monitor.ingest_metrics import IngestMetricsExporter
from streamrecon.monitor.naming import OTHER, info_of, makers, one_of, resident_memory
from streamrecon.monitor.refinement_metrics import RefinementGauges
from streamrecon.reconstruct.results import FSC_KINDS, STAGES, BatchResult, EngineStatus
from streamrecon.transport.handshake import REFUSAL_REASONS

__all__ = ["ERROR_KINDS", "IngestMetricsExporter", "SupervisorMetrics", "WorkerMetrics"]

PROCESSES = ("ingest", "worker")
FOLDERS = ("output_dir", "watch_root")
CHANNELS = ("webhook", "email")
NOTICE_OUTCOMES = ("sent", "failed", "dropped")
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


class WorkerMetrics:
    """What the worker tells, for Prometheus."""

    def __init__(self, registry: CollectorRegistry, targets_angstrom: Sequence[float] = (4.0, 3.0)) -> None:
        counter, gauge = makers(registry, "worker")
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
        self._revisits = counter(
            "image_revisits_total", "Of the image visits, those to particles seen before, while the stream idled."
        )
        self._stored = gauge("store_particles", "Particles kept on disk for another visit.")
        self._store_bytes = gauge("store_bytes", "Disk that the kept particles take.")
        self._store_dropped = gauge(
            "store_dropped_particles", "Kept particles given up to make room, the worst of the oldest first."
        )
        self._store_lost = gauge(
            "store_lost_particles", "Kept particles whose records did not agree after a crash; they stay in the map."
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
            "1 for the kind: common (halves posed on one map: optimistic) or gold_standard (each on its own).",
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
        self._inliers = gauge(
            "inlier_ratio", "Share of the images that the map explains better than junk. NaN: not judged yet."
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
        self._checkpoint_seconds = gauge(
            "checkpoint_write_seconds",
            "Time the last checkpoint took: copying the state, making pose tables and store durable, writing.",
        )
        self._errors = counter("errors_total", "Errors by kind; the session went on where it could.", ("kind",))
        self._assessed = AssessmentGauges(gauge, targets_angstrom)
        self.refinement = RefinementGauges(gauge)
        self._subscribers = gauge("subscribers", "Programs that follow the published events.")
        self._refused = counter(
            "peers_refused_total",
            "Connections to the published sockets refused, by reason: an unknown key, plaintext, a failed handshake.",
            ("reason",),
        )
        self._gpu_used = gauge("gpu_memory_used_bytes", "GPU memory in use on the worker's device; 0 without a GPU.")
        self._gpu_total = gauge("gpu_memory_total_bytes", "GPU memory of the worker's device; 0 without a GPU.")
        for reason in (*REFUSAL_REASONS, OTHER):
            self._refused.labels(reason)
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
        resident_memory(registry, "worker")
        info_of(registry, "worker")

    def status(self, status: EngineStatus) -> None:
        """Set every gauge that follows the engine."""
        self._seen.set(status.particles_seen)
        self._resolution.set(status.resolution_angstrom)
        self._k_max.set(status.k_max)
        self._temperature.set(status.temperature)
        self._ess.set(status.effective_sample_size)
        self._entropy.set(status.coarse_entropy)
        self._evidence.set(status.log_evidence)
        self._inliers.set(status.inlier_share)
        self._rate.set(status.images_per_second)
        self._evaluations_per_image.set(status.evaluations_per_image)
        for known in (*STAGES, OTHER):
            self._stage.labels(known).set(known == one_of(status.stage, STAGES))
        for known in (*FSC_KINDS, OTHER):
            self._fsc_kind.labels(known).set(known == one_of(status.fsc_kind, FSC_KINDS))
        self.refinement.status(status)

    def batch_folded(self, result: BatchResult, visits: int) -> None:
        """Count a folded batch; ``visits`` are the image visits it cost."""
        self._batches.inc()
        self._particles.inc(len(result.pose_weight))
        self._visits.inc(visits)
        self._evaluations.inc(result.evaluations)
        self._step.observe(result.step_seconds)

    def batch_revisited(self, result: BatchResult) -> None:
        """Count a batch of particles that were visited again."""
        self._visits.inc(len(result.pose_weight))
        self._revisits.inc(len(result.pose_weight))
        self._evaluations.inc(result.evaluations)
        self._step.observe(result.step_seconds)

    def store(self, particles: int, size: int, dropped: int, lost: int) -> None:
        """Set what is kept for another visit."""
        self._stored.set(particles)
        self._store_bytes.set(size)
        self._store_dropped.set(dropped)
        self._store_lost.set(lost)

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

    def assessed(self, assessment: Assessment) -> None:
        """Set what an assessment found."""
        self._assessed.set(assessment)

    def error(self, error: Exception) -> None:
        """Count an error by its kind."""
        kind = error.kind if isinstance(error, errors.StreamReconError) else OTHER
        self._errors.labels(one_of(kind, ERROR_KINDS)).inc()

    def peer_refused(self, reason: str) -> None:
        """Count one connection that was refused."""
        self._refused.labels(one_of(reason, REFUSAL_REASONS)).inc()

    def subscribers(self, count: int) -> None:
        """Set how many programs follow."""
        self._subscribers.set(count)

    def gpu_memory(self, used_bytes: int, total_bytes: int) -> None:
        """Set the memory of the device; not called by a worker without one."""
        self._gpu_used.set(used_bytes)
        self._gpu_total.set(total_bytes)


class SupervisorMetrics:
    """What `streamrecon run` tells, for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = makers(registry, "supervisor")
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
        self._free = gauge(
            "filesystem_free_bytes",
            "Room left for this user where the folder lies. NaN: cannot be asked. Filled: no checkpoints, no maps.",
            ("folder",),
        )
        self._size = gauge("filesystem_size_bytes", "Size of the file system where the folder lies.", ("folder",))
        self._notices = counter(
            "notices_total",
            "Notices to people: sent; failed after all attempts; dropped, because too many waited.",
            ("channel", "outcome"),
        )
        for process in PROCESSES:
            self._up.labels(process)
            self._restarts.labels(process)
        for folder in FOLDERS:
            self.filesystem(folder, float("nan"), float("nan"))
        for channel in CHANNELS:
            for outcome in NOTICE_OUTCOMES:
                self._notices.labels(channel, outcome)
        resident_memory(registry, "supervisor")
        info_of(registry, "supervisor")

    def up(self, process: str, is_up: bool) -> None:
        """Say whether a process runs."""
        self._up.labels(process).set(is_up)

    def restarted(self, process: str) -> None:
        """Count a restart."""
        self._restarts.labels(process).inc()

    def filesystem(self, folder: str, free_bytes: float, size_bytes: float) -> None:
        """Set how much room there is where a folder lies, one of `FOLDERS`; NaN where it cannot be asked."""
        self._free.labels(folder).set(free_bytes)
        self._size.labels(folder).set(size_bytes)

    def notice(self, channel: str, outcome: str) -> None:
        """Count what became of a notice; labels from `CHANNELS` and `NOTICE_OUTCOMES`."""
        self._notices.labels(channel, outcome).inc()
