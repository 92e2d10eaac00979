"""The worker's loop: take a batch, fold it, publish, checkpoint; acknowledge only what is durable."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Literal

import structlog

from streamrecon.config.model import Config
from streamrecon.errors import IngestError, NumericalError, StateError
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.results import EngineLike
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.transport.publisher import Publisher
from streamrecon.worker.assessments import Assessments
from streamrecon.worker.control import Control, Steering
from streamrecon.worker.durability import Durability
from streamrecon.worker.feed import Feed
from streamrecon.worker.news import StatusNews
from streamrecon.worker.outputs import write_snapshot
from streamrecon.worker.preprocess import decide_contrast, usable
from streamrecon.worker.reconstruction import Reconstruction
from streamrecon.worker.revisits import Revisits
from streamrecon.worker.search_visits import caution

POLL_SECONDS = 0.2
CONTRAST_IMAGES = 500
CONTRAST_WAIT_SECONDS = 20.0
SNAPSHOT_FOLDER = "snapshots"
STAR_NAME = "particles.star"
# The poses are exported whenever visits have grown by this factor: all exports add up to a few times their number.
_EXPORT_GROWTH = 1.25
# How kinds of events end that somebody should hear of who asked for warnings alone.
_WRONG = ("_failed", "_refused", "_unsettled", "_contradicted")

_log = structlog.get_logger(__name__)


class Worker:
    """Drive one session from the feed to its outputs.

    Parameters
    ----------
    config : Config
    feed : Feed
        Told which batches ``reconstruction`` holds already.
    reconstruction : Reconstruction
    store : CheckpointStore
    publisher : Publisher
    metrics : WorkerMetrics
    control : Control or None
        Orders of people; None: nobody gives any.

    Notes
    -----
    The order is what makes every particle count exactly once: fold; copy engine state, batch numbers and the
    length of the pose table at one moment; write them as one checkpoint; acknowledge its batches. Whatever is
    interrupted, the batches that the last checkpoint lacks come again, and those that it has are dropped.
    """

    def __init__(
        self,
        config: Config,
        feed: Feed,
        reconstruction: Reconstruction,
        store: CheckpointStore,
        publisher: Publisher,
        metrics: WorkerMetrics,
        control: Control | None = None,
    ) -> None:
        self._config = config
        self._feed = feed
        self._reconstruction = reconstruction
        self._publisher = publisher
        self._metrics = metrics
        self._control = control or Control(config)
        self._durability = Durability(feed, reconstruction, store, metrics, self._control, self._tell)
        self._assessments = Assessments(config, self._output_dir / SNAPSHOT_FOLDER, publisher, metrics, self._tell)
        self._undecided: list[tuple[int, ParticleBatch]] = []
        self._undecided_since = 0.0
        self._undecided_tried = 0
        self._snapshot_at = float("-inf")
        self._snapshot_visits = 0
        self._exported = 0
        self._revisits = Revisits(config, reconstruction)
        self._news = StatusNews(self._tell)
        self._turn_at = time.monotonic()

    @property
    def seconds_since_turn(self) -> float:
        """Return how long ago the loop last came round; large while a fold hangs."""
        return time.monotonic() - self._turn_at

    def run(self, stop: threading.Event) -> Literal["drained", "stopped"]:
        """Work until the stream ends or ``stop`` is set; then make everything durable.

        Raises
        ------
        StreamReconError
            What cannot be gone on from; the last checkpoint holds.
        """
        steering = Steering(stop.set, self._feed.drain, self._snapshot, self._tell)
        if self._reconstruction.engine is not None:  # resumed: who follows need not wait for the next batch
            self._tell_status(self._reconstruction.engine)
        try:
            while not (stop.is_set() or self._feed.drained):
                self._obey(steering)
                idle = self._idle
                item = self._next(stop, 0.0 if idle else POLL_SECONDS)
                if item is not None:
                    self._take(*item)
                elif idle:
                    self._revisit()
                self._decide_contrast()
                self._keep_up()
            reason: Literal["drained", "stopped"] = "drained" if self._feed.drained else "stopped"
            if reason == "drained":
                self._last_sweeps(stop, steering)
            self._finish(reason)
            return reason
        finally:
            self._assessments.close()
            self._durability.close()

    def _obey(self, steering: Steering) -> None:
        """Come round: do what people have asked for."""
        self._turn_at = time.monotonic()
        engine = self._reconstruction.engine
        waiting = len(self._durability.unacknowledged)
        self._control.turn(steering, None if engine is None else engine.status, waiting)

    def _keep_up(self) -> None:
        """Do what is due in every turn: checkpoint, snapshot, assessment, metrics."""
        self._durability.turn()
        self._snapshot_if_due()
        self._assessments.poll()
        self._metrics.subscribers(self._publisher.subscribers)
        self._metrics.unacknowledged(len(self._durability.unacknowledged))
        self._metrics.refinement.sweeps(self._revisits.sweeps, finishing=self._revisits.finishing)
        if failure := self._revisits.new_failure():
            self._tell("search_unsettled", failure)

    def _last_sweeps(self, stop: threading.Event, steering: Steering) -> None:
        """Visit what is kept a few times more, now that nothing new will come; whoever stops us is obeyed at once."""
        self._revisits.finish()
        if self._revisits.wanted:
            self._tell("finishing", f"the stream is over; {self._revisits.progress}")
        while self._revisits.wanted and not stop.is_set():
            self._control.finishing = self._revisits.progress
            self._obey(steering)
            if self._may_revisit:
                self._revisit()
            else:
                stop.wait(POLL_SECONDS)
            self._keep_up()

    @property
    def _idle(self) -> bool:
        """Whether nothing is queued, and visits to particles seen before would pay and may be made."""
        return self._feed.paused and not self._undecided and self._may_revisit and self._revisits.wanted

    @property
    def _may_revisit(self) -> bool:
        """Whether people and the disk allow visits: without room for them their poses would pile up in memory."""
        return not (self._control.paused or self._durability.waits_for_room)

    def _next(self, stop: threading.Event, timeout_seconds: float) -> tuple[int, ParticleBatch] | None:
        if not (self._control.paused or self._durability.full):
            return self._feed.poll(timeout_seconds)
        stop.wait(POLL_SECONDS)
        return None

    def _take(self, batch_id: int, batch: ParticleBatch) -> None:
        if batch_id in self._reconstruction.folded:
            self._metrics.batch_dropped()
            if batch_id not in self._durability.unacknowledged:
                self._feed.ack([batch_id])
            return
        try:
            batch = usable(batch)
            self._reconstruction.check_sampling(batch, (b for _, b in self._undecided))
        except IngestError as error:
            self._give_back(batch_id, error)
            return
        if self._reconstruction.contrast is not None:
            self._fold(batch_id, batch)
            return
        if not self._undecided:
            self._undecided_since = time.monotonic()
        self._undecided.append((batch_id, batch))

    def _decide_contrast(self) -> None:
        """Settle whether protein is white, once enough images are there, and fold those that waited for it."""
        if not self._undecided or self._control.paused:
            return
        batches = [batch for _, batch in self._undecided]
        waited = time.monotonic() - self._undecided_since
        must = sum(map(len, batches)) >= CONTRAST_IMAGES or waited >= CONTRAST_WAIT_SECONDS
        if len(batches) == self._undecided_tried and not must:
            return
        self._undecided_tried = len(batches)
        contrast = decide_contrast(self._config, batches, must=must)
        if contrast is None:
            return
        self._reconstruction.contrast = contrast
        self._tell("contrast", f"particles are taken as {contrast}", contrast=contrast)
        waiting, self._undecided = self._undecided, []
        for batch_id, batch in waiting:
            self._fold(batch_id, batch)

    def _fold(self, batch_id: int, batch: ParticleBatch) -> None:
        engine = self._reconstruction.engine
        visits_before = engine.status.image_visits if engine is not None else 0
        try:
            result = self._reconstruction.fold(batch_id, batch)
        except (IngestError, NumericalError) as error:
            self._give_back(batch_id, error)
            return
        self._durability.folded(batch_id)
        engine = self._reconstruction.engine
        if engine is None:
            return
        self._revisits.note_new(len(result.pose_weight))
        self._metrics.batch_folded(result, engine.status.image_visits - visits_before)
        self._tell_status(engine)
        self._publisher.publish_poses(batch_id, result, batch.half, engine.status)

    def _revisit(self) -> None:
        """Visit a batch of kept particles again; a turn of the loop later new ones are looked for."""
        try:
            result = self._revisits.step()
        except NumericalError as error:
            self._metrics.error(error)
            self._tell("revisit_refused", str(error), error_kind=error.kind)
            return
        engine = self._reconstruction.engine
        if result is None or engine is None:
            return
        self._durability.revisited()
        self._metrics.batch_revisited(result)
        self._tell_status(engine)

    def _tell_status(self, engine: EngineLike) -> None:
        status = engine.status
        self._metrics.status(status)
        if engine.device_memory is not None:
            self._metrics.gpu_memory(*engine.device_memory)
        store = self._reconstruction.store
        if store is not None:
            self._metrics.store(len(store), store.n_bytes, store.dropped, store.lost)
        self._publisher.publish_status(status)
        self._news.take(status)

    def _give_back(self, batch_id: int, error: IngestError | NumericalError) -> None:
        self._metrics.error(error)
        self._feed.nack(batch_id, error.kind, str(error))
        self._tell("batch_refused", str(error), batch=batch_id, error_kind=error.kind)

    def _snapshot_if_due(self) -> None:
        engine = self._reconstruction.engine
        if engine is None:
            return
        new = engine.status.image_visits - self._snapshot_visits
        waited = time.monotonic() - self._snapshot_at
        every = self._control.config.snapshot
        if new > 0 and (new >= every.every_images or waited >= every.every_seconds):
            self._snapshot()

    def _snapshot(self) -> str:
        """Publish and write a snapshot, if there is anything in the map; return what went wrong, "" if nothing."""
        engine = self._reconstruction.engine
        if engine is None or engine.status.particles_seen == 0:
            return ""
        began = time.monotonic()
        snapshot = engine.snapshot()
        self._snapshot_at, self._snapshot_visits = began, snapshot.status.image_visits
        self._publisher.publish_snapshot(snapshot)
        self._assessments.submit(snapshot, self._reconstruction.told())
        try:
            write_snapshot(self._output_dir / SNAPSHOT_FOLDER, snapshot)
        except OSError as error:
            self._metrics.error(error)
            text = f"{self._output_dir / SNAPSHOT_FOLDER}: cannot be written: {error}"
            self._tell("snapshot_failed", text)
            return text
        self._metrics.snapshot_written(time.monotonic() - began)
        if snapshot.status.image_visits >= _EXPORT_GROWTH * self._exported:
            try:
                self._export()
            except StateError as error:
                self._metrics.error(error)
                self._tell("export_failed", str(error))
        _log.info(
            "snapshot",
            particles_seen=snapshot.status.particles_seen,
            image_visits=snapshot.status.image_visits,
            resolution_angstrom=round(snapshot.resolution_angstrom, 2),
            stage=snapshot.status.stage,
        )
        return ""

    def _finish(self, reason: str) -> None:
        """Leave nothing undone; what waits for a contrast is not acknowledged and comes again."""
        self._durability.complete()
        self._snapshot()
        self._assessments.finish()
        if self._reconstruction.engine is not None:
            count = self._export()
            but = caution(self._reconstruction.engine.status)
            self._tell(
                reason, f"{count} particles with poses in {STAR_NAME}{'; ' if but else ''}{but}", particles=count
            )

    def _export(self) -> int:
        """Write the poses so far as a STAR file; return how many particles it holds."""
        path = self._output_dir / STAR_NAME
        try:
            count = self._reconstruction.export(path)
        except OSError as error:
            raise StateError(
                f"{path}: the particles cannot be exported ({error.strerror}); free space, or put the folder back if "
                "it was moved, and run again"
            ) from error
        engine = self._reconstruction.engine
        self._exported = engine.status.image_visits if engine is not None else count
        return count

    @property
    def _output_dir(self) -> Path:
        return self._config.session.output_dir

    def _tell(self, kind: str, text: str, **fields: str | int | float) -> None:
        log = _log.warning if kind.endswith(_WRONG) else _log.info
        log(kind, text=text, **fields)
        self._publisher.publish_event(kind, text, **fields)
