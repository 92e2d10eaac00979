"""What is folded becomes durable, and only then is it acknowledged: checkpoints of the worker's loop."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from streamrecon.errors import StateError, StateUnwritable
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.state.background import AsyncCheckpointer
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.control import Control
from streamrecon.worker.feed import Feed
from streamrecon.worker.reconstruction import Reconstruction

# while nothing is queued the ingester waits for acknowledgements: do not let it wait a whole interval
PAUSED_CHECKPOINT_SECONDS = 2.0
# bounds what a crash costs when a fast worker meets a long checkpoint interval
MAX_UNACKNOWLEDGED = 500
# with so many more than that no more are taken until a checkpoint has succeeded: on a full disk they would pile up
_UNACKNOWLEDGED_LIMIT = 2 * MAX_UNACKNOWLEDGED
_RETRY_CHECKPOINT_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class Durability:
    """Checkpoints when they are due, acknowledges what is in them.

    Parameters
    ----------
    feed : Feed
    reconstruction : Reconstruction
    store : CheckpointStore
    metrics : WorkerMetrics
    control : Control
    tell : callable
        Says to people what happened: kind and text.

    Attributes
    ----------
    unacknowledged : list of int
        Batches that are folded and in no durable checkpoint, in order.
    waits_for_room : bool
        Whether the last checkpoint found the disk full; what changes now adds up in memory.
    """

    def __init__(
        self,
        feed: Feed,
        reconstruction: Reconstruction,
        store: CheckpointStore,
        metrics: WorkerMetrics,
        control: Control,
        tell: Callable[[str, str], None],
    ) -> None:
        self._feed = feed
        self._reconstruction = reconstruction
        self._metrics = metrics
        self._control = control
        self._tell = tell
        self._checkpointer = AsyncCheckpointer[list[int]](store, before=reconstruction.sync)
        self.unacknowledged: list[int] = []
        self.waits_for_room = False
        self._revisited = False
        self._at = time.monotonic()
        self._copy_seconds = self._not_before = 0.0

    @property
    def full(self) -> bool:
        """Whether no more may be folded before a checkpoint has succeeded."""
        return len(self.unacknowledged) >= _UNACKNOWLEDGED_LIMIT

    def folded(self, batch_id: int) -> None:
        """Take note of a batch that the next checkpoint will hold."""
        self.unacknowledged.append(batch_id)

    def revisited(self) -> None:
        """Take note that poses have changed."""
        self._revisited = True

    def turn(self) -> None:
        """Acknowledge what has become durable, and begin a checkpoint if one is due."""
        self.finish(0.0)
        if self._checkpointer.busy or time.monotonic() < self._not_before:
            return
        if not (self.unacknowledged or self._revisited):
            self._control.nothing_to_save()
            return
        waited = time.monotonic() - self._at
        due = (
            self._control.checkpoint_asked
            or waited >= self._control.config.checkpoint.every_seconds
            or (self.unacknowledged and self._feed.paused and waited >= PAUSED_CHECKPOINT_SECONDS)
            or len(self.unacknowledged) >= MAX_UNACKNOWLEDGED
        )
        if due:
            self._start()

    def _start(self) -> None:
        self._at = time.monotonic()
        self._revisited = False
        link = self._feed.link(self._reconstruction.folded.last)
        state, extra = self._reconstruction.state(self._feed.session, link)
        self._copy_seconds = time.monotonic() - self._at
        self._checkpointer.submit(state, extra, list(self.unacknowledged))
        self._control.checkpoint_started()

    def finish(self, timeout_seconds: float | None, *, must: bool = False) -> None:
        """Acknowledge what has become durable; one that failed is tried again later unless it must succeed.

        Raises
        ------
        StateError
            It must succeed, and has not.
        """
        try:
            done = self._checkpointer.poll(timeout_seconds)
        except StateError as error:
            self._metrics.error(error)
            self._control.checkpoint_failed(error)
            self._reconstruction.checkpointed(durable=False)
            self.waits_for_room = isinstance(error, StateUnwritable)
            self._revisited = True  # what this one would have held is not durable yet
            if must:
                raise
            self._not_before = time.monotonic() + _RETRY_CHECKPOINT_SECONDS
            self._tell("checkpoint_failed", str(error))
            return
        if done is None:
            return
        self._reconstruction.checkpointed(durable=True)
        self.waits_for_room = False
        saved, batch_ids = done
        self._feed.ack(batch_ids)
        durable = set(batch_ids)
        self.unacknowledged = [i for i in self.unacknowledged if i not in durable]
        self._metrics.checkpoint_durable(saved.bytes, self._copy_seconds + saved.seconds)
        self._control.checkpoint_durable(saved)
        _log.debug("checkpoint durable", number=saved.number, bytes=saved.bytes, batches=len(batch_ids))

    def complete(self) -> None:
        """Make everything durable before the end.

        Raises
        ------
        StateError
            The last checkpoint cannot be written.
        """
        self.finish(None)
        if self.unacknowledged or self._revisited:
            self._start()
            self.finish(None, must=True)

    def close(self) -> None:
        """Wait for a checkpoint under way."""
        self._checkpointer.close()
