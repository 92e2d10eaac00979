"""Everything that a checkpoint holds, as one thing: engine, pose table, batches folded, decisions made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import structlog
from numpy.typing import NDArray

from streamrecon.config.model import Config
from streamrecon.errors import CheckpointCorrupt, ManifestMismatch, NumericalError, StateError, StateUnwritable
from streamrecon.geometry.orientation import Orientation
from streamrecon.io import PoseSpool, SpoolLength
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.results import BatchResult, EngineLike, EngineState
from streamrecon.state.checkpoint import LoadedCheckpoint
from streamrecon.state.compatibility import check_compatible
from streamrecon.state.particle_store import ParticleStore
from streamrecon.state.store_index import StoreIndex
from streamrecon.transport.batch_ids import BatchIds
from streamrecon.worker.preprocess import Contrast, prepare, sampling_of
from streamrecon.worker.record import WorkerRecord, compatibility_of
from streamrecon.worker.tallies import Tallies, Told, views_of

# given the configuration, the box size in pixels and the pixel size in angstrom
STORE_NAME = "particles.store"
MICROGRAPHS_NAME = "micrographs.csv"
EngineFactory: TypeAlias = Callable[[Config, int, float], EngineLike]

_log = structlog.get_logger(__name__)


class Reconstruction:
    """The state of a session: changed by `fold`, and only as a whole.

    Parameters
    ----------
    config : Config
    make_engine : callable
        Called once box and pixel size are known.
    spool_path : Path
        Of the pose table; the store of particles is beside it.
    loaded : LoadedCheckpoint or None
        Where to go on; None starts empty, whatever the pose table holds.

    Raises
    ------
    CheckpointIncompatible
        The checkpoint was made under another configuration.
    CheckpointCorrupt
        It lacks something, or the pose tables are shorter than it says or were altered.
    """

    def __init__(
        self,
        config: Config,
        make_engine: EngineFactory,
        spool_path: Path,
        loaded: LoadedCheckpoint | None = None,
    ) -> None:
        self._config = config
        self._make_engine = make_engine
        self._groups: dict[OpticsGroup, int] = {}
        self.folded = BatchIds()
        self.feed_session = ""
        self.folded_link = ""
        self.contrast: Contrast | None = None
        self.sampling: tuple[int, float] | None = None
        self.engine: EngineLike | None = None
        self.tallies = Tallies()
        self.store: ParticleStore | None = None
        record = None if loaded is None else WorkerRecord.from_checkpoint(loaded.extra)
        if record is not None:
            check_compatible(record.compatibility, compatibility_of(config))
        self._spool = PoseSpool(spool_path, has_ctf=config.input.ctf == "require")
        # of the checkpoints on the disk, once there are as many as are kept: the first is the oldest to go back to
        self._durable: deque[SpoolLength] = deque(maxlen=config.checkpoint.keep)
        self._recorded = SpoolLength()
        try:
            if loaded is None or record is None:
                self._spool.truncate(SpoolLength())
            else:
                self._go_on(record, loaded.state)
        except BaseException:
            self.close()
            raise

    def _go_on(self, record: WorkerRecord, state: EngineState) -> None:
        self._spool.truncate(record.pose_tables)
        self._durable.append(self._spool.length)
        self._groups = {group: i for i, group in enumerate(record.optics_groups)}
        self.folded = BatchIds(record.folded)
        self.feed_session = record.feed_session
        self.folded_link = record.folded_link
        self.contrast = record.contrast
        self.sampling = (record.box_size, record.pixel_size_angstrom)
        self.engine = self._make_engine(self._config, *self.sampling)
        self.engine.restore(state)
        tallies = Tallies.restored(state.arrays)
        # a checkpoint of an earlier release has none
        self.tallies = Tallies.from_rows(self._spool.chunks()) if tallies is None else tallies
        self._open_store(StoreIndex.restored(state.arrays, state.scalars))

    def told(self) -> Told:
        """Return what was counted of all particles, as the map is published now."""
        return self.tallies.told(Orientation() if self.engine is None else self.engine.orientation)

    def _published(self, result: BatchResult) -> BatchResult:
        """Return a result with its poses as the map is published; the pose table and the store keep the engine's."""
        if self.engine is None or self.sampling is None or not self.engine.orientation.turned:
            return result
        rotation, shift = self.engine.orientation.publish(result.rotation, result.shift_angstrom, self.sampling[1])
        return replace(result, rotation=np.asarray(rotation, np.float32), shift_angstrom=np.asarray(shift, np.float32))

    def _open_store(self, index: StoreIndex | None) -> None:
        """Open the store if the engine keeps particles; without an index it starts empty."""
        layout = None if self.engine is None else self.engine.layout
        if layout is not None:
            path = self._spool.path.with_name(STORE_NAME)
            self.store = ParticleStore(path, layout, self._config.refinement.store_megabytes, index)

    def check_sampling(self, batch: ParticleBatch, others: Iterable[ParticleBatch] = ()) -> None:
        """Check that a batch has the box and pixel size of those before it.

        Raises
        ------
        ManifestMismatch
            It has not.
        """
        expected = self.sampling or next((sampling_of(other) for other in others), None)
        found = sampling_of(batch)
        if expected is not None and not (found[0] == expected[0] and np.isclose(found[1], expected[1])):
            raise ManifestMismatch(
                f"expected images of {expected[0]} pixels at {expected[1]:g} angstrom as the session began with, "
                f"found {found[0]} pixels at {found[1]:g} angstrom; rescale them, or start another session"
            )

    def fold(self, batch_id: int, batch: ParticleBatch) -> BatchResult:
        """Fold a usable batch; its contrast must have been decided.

        Raises
        ------
        IngestError, NumericalError
            The batch cannot be used; the state is what it was.
        StateError
            The pose table cannot be written, and not for want of room: engine and table may differ now, only the
            checkpoint holds.
        """
        if self.contrast is None:
            raise StateError("the contrast must be decided before a batch is folded")
        prepared = prepare(self._config, batch, self.contrast)
        if self.engine is None:
            sampling = sampling_of(batch)
            self.engine = self._make_engine(self._config, *sampling)
            self.sampling = sampling
            self._open_store(None)
        result = self.engine.fold(prepared)
        try:
            rows = self._spool.append(
                batch.table,
                rotation=result.rotation,
                shift_angstrom=result.shift_angstrom,
                half=batch.half,
                pose_weight=result.pose_weight,
                effective_sample_size=result.effective_sample_size,
                log_evidence=result.log_evidence,
                inlier=result.inlier,
                optics_group_index=self._global_groups(batch),
            )
        except OSError as error:
            raise self._no_room(error) from error
        views = views_of(result.rotation)
        self.tallies.add(views, (batch.table.defocus_u_angstrom + batch.table.defocus_v_angstrom) / 2)
        if self.store is not None and result.kept is not None:
            self.store.put(result.kept, result.log_evidence, rows, self.engine.status.image_visits, views)
        self.folded.add(batch_id)
        return self._published(result)

    def revisit(self, n: int) -> BatchResult | None:
        """Visit kept particles again, at most n: those whose turn it is in this sweep; None if nobody's turn is left.

        Raises
        ------
        NumericalError
            A likelihood is not finite.
        StateError
            The pose table cannot be written, or is not what it was: only the checkpoint holds.
        """
        if self.engine is None or self.store is None:
            return None
        # while searching all are searched for, in the order in which they came: the worst first would be other sums
        share = 0.0 if self.engine.status.stage == "searching" else self._config.refinement.search_share
        chosen, search = self.store.index.choose(n, share)
        good, kept, rows = self.store.get(chosen)
        if not len(good):
            return None
        try:
            result = self.engine.revisit(kept, search[np.isin(chosen, good)])
        except NumericalError:
            self.store.give_up(good)  # they stay in the sums as they are
            raise
        if result.kept is None:
            raise StateError("the engine gave nothing to keep of particles that were kept")
        views = self.tallies.move(self.store.index.views(good), views_of(result.rotation))
        visits = self.engine.status.image_visits
        self.store.replace(good, result.kept.contribution, result.log_evidence, visits, views)
        try:
            self._spool.update(
                rows,
                rotation=result.rotation,
                shift_angstrom=result.shift_angstrom,
                pose_weight=result.pose_weight,
                effective_sample_size=result.effective_sample_size,
                log_evidence=result.log_evidence,
                inlier=result.inlier,
            )
        except OSError as error:
            raise self._no_room(error) from error
        return self._published(result)

    def _no_room(self, error: OSError) -> StateError:
        return StateError(
            f"{self._spool.path}: poses cannot be appended ({error.strerror}); free space, then start again: "
            "the session resumes from its last checkpoint"
        )

    def state(self, feed_session: str, folded_link: str = "") -> tuple[EngineState, dict[str, Any]]:
        """Return a copy of everything, as a checkpoint takes it; ``folded_link`` as in `WorkerRecord`."""
        if self.engine is None or self.sampling is None or self.contrast is None:
            raise StateError("nothing has been folded yet, there is no state to save")
        length = self._spool.length
        self._recorded = length
        record = WorkerRecord(
            compatibility=compatibility_of(self._config),
            feed_session=feed_session,
            folded=self.folded.ranges,
            folded_link=folded_link,
            pose_spool_bytes=length.rows,
            pose_visits_bytes=length.visits,
            pose_spool_crc32=length.rows_crc32,
            pose_visits_crc32=length.visits_crc32,
            contrast=self.contrast,
            box_size=self.sampling[0],
            pixel_size_angstrom=self.sampling[1],
            optics_groups=list(self._groups),
        )
        state = self.engine.state()
        state = EngineState({**state.arrays, **self.tallies.arrays()}, state.scalars)
        if self.store is not None:
            arrays, scalars = self.store.index.checkpoint()
            state = EngineState({**state.arrays, **arrays}, {**state.scalars, **scalars})
        return state, record.to_json_able()

    def checkpointed(self, *, durable: bool) -> None:
        """Take note that the state last given is durable, or never will be."""
        if durable:
            self._durable.append(self._recorded)
        if self.store is not None:
            self.store.index.durable() if durable else self.store.index.failed()

    def sync(self) -> None:
        """Make pose table and store durable, and drop poses that nothing goes back to; from any thread.

        Raises
        ------
        StateUnwritable
            There is no room for it. Its rows wait in memory.
        """
        try:
            self._spool.sync()
            if self.store is not None:
                self.store.sync()
            if len(self._durable) == self._durable.maxlen:
                oldest = self._durable[0]
                self._spool.visits.compact(oldest.visits, oldest.visits_crc32)
        except CheckpointCorrupt as error:
            # the map is none the worse: it is saved and goes on, who resumes from it is told
            _log.error("poses_altered", reason=str(error))
        except OSError as error:
            raise StateUnwritable(
                f"{self._spool.path}: expected room for the poses, found {error.strerror}; free space: the worker "
                "keeps them and tries again"
            ) from error

    def export(self, path: Path) -> int:
        """Write the poses as a STAR file, and means over micrographs beside it; return how many particles it holds."""
        orientation = Orientation() if self.engine is None else self.engine.orientation
        return self._spool.export(path, list(self._groups), path.with_name(MICROGRAPHS_NAME), orientation)

    def stop_keeping(self) -> None:
        """Let go of the particles that were kept, and keep no more."""
        if self.store is not None:
            self.store.close()
            self.store.path.unlink(missing_ok=True)
            self.store = None

    def close(self) -> None:
        """Close engine, pose table and store."""
        if self.engine is not None:
            self.engine.close()
        self._spool.close()
        if self.store is not None:
            self.store.close()

    def _global_groups(self, batch: ParticleBatch) -> NDArray[np.int32]:
        """Return each row's optics group as the whole session counts them: batches count anew each time."""
        local = [self._groups.setdefault(g, len(self._groups)) for g in batch.table.optics_groups]
        return np.array(local, np.int32)[batch.table.optics_group_index]
