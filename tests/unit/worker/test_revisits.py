"""Revisits in the worker's loop: in idle time only, published and counted apart, and as it was after every crash."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import BOX, FakeFeed, FakePublisher, Ledger, SumEngine, make_batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamrecon.compute.cpu import CpuBackend
from streamrecon.config.model import Config
from streamrecon.errors import CheckpointCorrupt, NumericalError, StateUnwritable
from streamrecon.inference.compact import encode
from streamrecon.io import read_star
from streamrecon.io.visit_log import VisitLog, rows_of
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.reconstruct.kept import Contribution, KeptLayout, KeptParticles
from streamrecon.reconstruct.results import BatchResult, EngineState
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker import durability, loop
from streamrecon.worker.loop import Worker
from streamrecon.worker.main import SPOOL_NAME
from streamrecon.worker.reconstruction import Reconstruction

LAYOUT = KeptLayout(3, 2)


class Crash(Exception):
    """Stands for SIGKILL."""


class VisitEngine(SumEngine):
    """Holds one whole number a particle, another at each visit: their sum tells what is in the sums."""

    layout = LAYOUT

    def __init__(self, config, box_size, pixel_size_angstrom):
        super().__init__(config, box_size, pixel_size_angstrom)
        self.total, self.visits, self.next = 0, 0, 1
        self.resolution = 10.0

    @property
    def status(self):
        return replace(
            super().status, stage="refining" if self.seen >= 40 else "searching", image_visits=self.visits,
            resolution_angstrom=self.resolution, fsc_kind="gold_standard",
        )  # fmt: skip

    def kept(self, n, half):
        numbers = np.arange(self.next, self.next + n)
        self.next += n
        self.total += int(numbers.sum())
        self.visits += n
        contribution = Contribution(
            np.ones((n, 2, 4), np.float32), np.zeros((n, 2, 2), np.float32), np.ones((n, 2), np.float32),
            np.ones((n, 4), np.float32), np.ones(n, np.float32), np.zeros(n, np.float32), numbers.astype(float),
            np.zeros(n, int), np.zeros(n, int),
        )  # fmt: skip
        images, *_ = encode(CpuBackend(1), *np.ones((2, n, LAYOUT.n_points), np.float32), np.zeros(n))
        return KeptParticles(
            images, np.zeros((n, 5), np.float32), np.ones(n, np.float32), np.zeros(n, np.int32), half, contribution
        )

    def fold(self, batch):
        result = super().fold(batch)
        kept = self.kept(len(batch), batch.half)
        return replace(result, kept=kept, log_evidence=kept.contribution.level.astype(np.float32))

    def revisit(self, kept, search):
        assert len(search) == len(kept)
        n = len(kept)
        self.total -= int(kept.contribution.level.sum())
        new = self.kept(n, kept.half)
        ones = np.ones(n, np.float32)
        shift = np.repeat(new.contribution.level[:, None], 2, axis=1).astype(np.float32)
        rotation = np.broadcast_to(np.eye(3, dtype=np.float32), (n, 3, 3))
        return BatchResult(rotation, shift, ones, ones, new.contribution.level.astype(np.float32), n, 0.01, kept=new)

    def state(self):
        state = super().state()
        return EngineState(
            state.arrays, {**state.scalars, "total": self.total, "visits": self.visits, "next": self.next}
        )

    def restore(self, state):
        super().restore(state)
        self.total, self.visits, self.next = (state.scalars[k] for k in ("total", "visits", "next"))


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setattr(durability, "PAUSED_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.0)
    # poses that nothing goes back to are dropped at every checkpoint
    monkeypatch.setitem(VisitLog.__init__.__kwdefaults__, "least_bytes", 1)


class Session:
    """One start of the worker after another on one folder; the stream stays open once everything is folded."""

    def __init__(self, folder, ledger, **refinement):
        self.folder, self.ledger = folder, ledger
        self.config = Config.model_validate(
            {
                "session": {"output_dir": folder},
                "input": {"contrast": "protein_white"},
                "feed": {"batch_size": 7},
                "checkpoint": {"every_seconds": 1e-9},
                "snapshot": {"every_seconds": 3600, "every_images": 10**6},
                "refinement": {"store_megabytes": 1, "max_sweeps": 3, **refinement},
            }
        )
        self.publisher = FakePublisher()

    def start(self, turns, crash_at=None, visits=0, *, until=lambda: True, open_ended=True):
        """Let the loop go round so often once there were so many visits, then stop it in order; or let it die.

        Not before what it waits for has come about, either.
        """
        deadline = time.monotonic() + 240
        store = CheckpointStore(self.folder / "checkpoints")
        self.reconstruction = Reconstruction(self.config, VisitEngine, self.folder / SPOOL_NAME, store.load_latest())
        feed = self.ledger.connect(
            self.reconstruction.folded, self.reconstruction.feed_session, self.reconstruction.folded_link
        )
        if open_ended:
            type(feed).drained = property(lambda _: False)
        stop, left = threading.Event(), [turns]
        poll = feed.poll

        def counted(timeout):
            engine = self.reconstruction.engine
            if not until() or (visits and (engine is None or engine.visits < visits)):
                assert time.monotonic() < deadline
            else:
                left[0] -= 1
            if crash_at is not None and turns - left[0] > crash_at:
                raise Crash
            if left[0] <= 0:
                stop.set()
            return poll(timeout)

        feed.poll = counted
        self.registry = CollectorRegistry()
        metrics = WorkerMetrics(self.registry)
        worker = Worker(self.config, feed, self.reconstruction, store, self.publisher, metrics)
        try:
            worker.run(stop)
        finally:
            self.reconstruction.close()

    def metric(self, name):
        return self.registry.get_sample_value(f"streamrecon_worker_{name}")


def in_the_store(reconstruction):
    """Return the sum of the numbers that the store says are in the sums, and how many particles that are."""
    used = np.flatnonzero(reconstruction.store.index._entries["used"])
    _, kept, _ = reconstruction.store.get(used)
    return int(kept.contribution.level.sum()), len(used)


def reopened(session):
    store = CheckpointStore(session.folder / "checkpoints")
    return Reconstruction(session.config, VisitEngine, session.folder / SPOOL_NAME, store.load_latest())


def in_order(session):
    """Whether store and sums of what was saved agree."""
    reconstruction = reopened(session)
    total, _ = in_the_store(reconstruction)
    reconstruction.close()
    return total == reconstruction.engine.total


@pytest.fixture
def feed_class():
    """FakeFeed's own `drained` comes back after the test."""
    drained = FakeFeed.drained
    yield
    FakeFeed.drained = drained


def test_idle_time_goes_to_revisits_and_everything_is_counted_apart(tmp_path, feed_class):
    session = Session(tmp_path, Ledger({i: make_batch(i) for i in range(1, 5)}))
    session.start(turns=20, visits=320)
    engine = session.reconstruction.engine
    assert engine.seen == 80
    # three sweeps at most, though nothing is gained by them: the last two found that out
    assert engine.visits == 80 * 4
    assert session.metric("particles_folded_total") == 80
    assert session.metric("image_visits_total") == 320
    assert session.metric("image_revisits_total") == 240
    assert session.metric("store_particles") == 80
    status = session.publisher.statuses[-1]
    assert (status.particles_seen, status.image_visits) == (80, 320)
    table = read_star(tmp_path / "particles.star")
    assert len(table) == len(set(table.identities())) == 80
    rows = (tmp_path / "poses.rows").read_bytes().count(b"\n")
    with VisitLog(tmp_path / "poses.visits") as visits, visits.reading() as file:
        left = sum(1 for _ in rows_of(file))
        assert (rows, left + visits.dropped_rows) == (80, 240)
    # the newest pose of each: its number is its shift
    reconstruction = reopened(session)
    used = np.flatnonzero(reconstruction.store.index._entries["used"])
    _, kept, _ = reconstruction.store.get(used)
    assert sorted(table.shift_angstrom[:, 0].tolist()) == sorted(kept.contribution.level.tolist())
    assert in_the_store(reconstruction) == (reconstruction.engine.total, 80)
    reconstruction.close()


def test_poses_are_dropped_only_once_no_checkpoint_goes_back_to_them(tmp_path):
    session = Session(tmp_path, Ledger({}))
    reconstruction = Reconstruction(session.config, VisitEngine, tmp_path / SPOOL_NAME)
    reconstruction.contrast = "protein_white"
    reconstruction.fold(1, make_batch(1))
    lengths = []
    for sweep in range(12):
        reconstruction.revisit(100)
        reconstruction.store.index.sweep += 1
        _, extra = reconstruction.state("feed")
        reconstruction.sync()
        durable = sweep % 4 != 3  # every fourth cannot be written
        reconstruction.checkpointed(durable=durable)
        lengths = [*lengths, extra["pose_visits_bytes"]][-3:] if durable else lengths
    reconstruction.close()
    with VisitLog(tmp_path / "poses.visits") as visits:
        assert visits.dropped_rows > 20 * 4
        for length in reversed(lengths):
            visits.truncate(length)
            with visits.reading() as file:
                assert len({row.split()[0] for row in rows_of(file)}) == 20
        with pytest.raises(CheckpointCorrupt, match="to go from"):
            visits.truncate(lengths[0] // 3)


def test_new_particles_come_first_and_end_the_rest(tmp_path, feed_class):
    ledger = Ledger({i: make_batch(i) for i in range(1, 4)})
    session = Session(tmp_path, ledger)
    session.start(turns=20, visits=240)
    visits = session.reconstruction.engine.visits
    assert visits == 60 * 4  # at rest: no more, however long it waits
    ledger.batches |= {i: make_batch(i) for i in range(4, 6)}
    session.start(turns=3)
    engine = session.reconstruction.engine
    assert engine.seen == 100  # both were folded before anything was visited
    assert engine.visits <= visits + 40 + 7
    # three more sweeps for the new ones. The old ones had their turn in the last sweep before: where the checkpoint was
    # made before that sweep was counted as over, it is the first of the three
    session.start(turns=20, visits=visits + 40 + 3 * 40 + 2 * 60)
    assert in_order(session)


def test_nothing_is_revisited_before_the_search_has_settled_or_without_a_store(tmp_path, feed_class):
    early = Session(tmp_path / "early", Ledger({1: make_batch(1)}))
    early.start(turns=20)
    assert early.reconstruction.engine.visits == 20
    none = Session(tmp_path / "none", Ledger({i: make_batch(i) for i in range(1, 5)}), store_megabytes=1)
    VisitEngine.layout = None
    try:
        none.start(turns=20)
    finally:
        VisitEngine.layout = LAYOUT
    assert none.reconstruction.store is None
    assert none.reconstruction.engine.visits == 80
    assert not (tmp_path / "none" / "particles.store").exists()


def test_a_visit_that_fails_costs_the_store_those_particles_and_nothing_else(tmp_path, feed_class, monkeypatch):
    visit, failures = VisitEngine.revisit, []

    def failing(self, kept, search):
        if not failures:
            failures.append(len(kept))
            raise NumericalError("a likelihood is not finite")
        return visit(self, kept, search)

    monkeypatch.setattr(VisitEngine, "revisit", failing)
    session = Session(tmp_path, Ledger({i: make_batch(i) for i in range(1, 5)}))
    session.start(turns=20, visits=80 + 73)
    assert failures == [7]
    assert session.metric("store_lost_particles") == 7
    assert session.metric("store_particles") == 73
    assert "revisit_refused" in [kind for kind, _, _ in session.publisher.events]
    assert len(read_star(tmp_path / "particles.star")) == 80


def stands_still(stand, name, monkeypatch):
    """Let the disk stand still in a call that makes a file durable, once, until ``stand`` comes back."""
    real, stood = getattr(os, name), []

    def call(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if not stood and path.startswith(("particles.store", ".poses.visits.tmp")):
            stood.append(path)
            stand()
        real(descriptor)

    monkeypatch.setattr(os, name, call)
    return stood


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_while_store_and_poses_are_made_durable_it_folds_and_visits_on(tmp_path, feed_class, monkeypatch, call):
    """Of the store its pages, of the poses of visits those that are written anew."""
    begun, go_on = threading.Event(), threading.Event()

    def stand():
        begun.set()
        assert go_on.wait(100)

    stood = stands_still(stand, call, monkeypatch)
    ledger = Ledger({i: make_batch(i) for i in range(1, 5)})
    # visits must not be over before poses are written anew, however long a checkpoint takes
    session = Session(tmp_path, ledger, max_sweeps=100)
    poll, turn = FakeFeed.poll, []

    def polled(feed, timeout):
        engine = session.reconstruction.engine
        if begun.is_set() and not turn:
            ledger.batches[5] = make_batch(5)
            turn.append(engine.visits)
        if turn and engine.visits > turn[0] + 20 and 5 in session.reconstruction.folded:
            go_on.set()
        return poll(feed, timeout)

    monkeypatch.setattr(FakeFeed, "poll", polled)
    session.start(turns=20, until=go_on.is_set)
    assert len(stood) == 1
    assert go_on.is_set()
    assert in_order(session)
    assert len(read_star(tmp_path / "particles.star")) == 100


@pytest.mark.parametrize("ended", [False, True])
def test_without_room_on_the_disk_nothing_is_visited(tmp_path, feed_class, monkeypatch, ended):
    """Rows of visits would pile up in memory; with room again it goes on, also after the end of the stream."""
    monkeypatch.setattr(durability, "_RETRY_CHECKPOINT_SECONDS", 0.001)
    save, full, visits = CheckpointStore.save, [], []
    session = Session(tmp_path, Ledger({i: make_batch(i) for i in range(1, 5)}), final_sweeps=3)

    def saved(store, state, extra):
        if session.reconstruction.engine.visits > 100 and len(full) < 20:
            full.append(session.reconstruction.engine.visits)
            raise StateUnwritable("No space left on device")
        return save(store, state, extra)

    def turned(worker):
        if worker._durability.waits_for_room:
            visits.append(session.reconstruction.engine.visits)
        turn(worker)
        # visits must not be over before the disk is full, however long a checkpoint takes
        deadline = time.monotonic() + 240
        while session.reconstruction.engine.visits > 100 and not full:
            assert time.monotonic() < deadline
            turn(worker)

    turn = Worker._keep_up
    monkeypatch.setattr(CheckpointStore, "save", saved)
    monkeypatch.setattr(Worker, "_keep_up", turned)
    if ended:
        monkeypatch.setattr(Worker, "_idle", False)
        monkeypatch.setattr(FakeFeed, "drained", property(lambda feed: len(feed.handed_out) == 4))
        session.start(turns=10**6, open_ended=False)
    else:
        session.start(turns=20, visits=320)
    assert len(full) == 20
    assert len(visits) >= 20
    assert len(set(visits)) == 1
    assert session.reconstruction.engine.visits == 320
    assert in_order(session)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crashes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_store_and_sums_agree_after_any_crash(tmp_path_factory, feed_class, crashes):
    """Every particle is in the sums exactly once, with what the store says, whenever the worker died."""
    folder = tmp_path_factory.mktemp("crash")
    session = Session(folder, Ledger({i: make_batch(i) for i in range(1, 5)}))
    for crash_at in crashes:
        with pytest.raises(Crash):
            session.start(turns=10**6, crash_at=crash_at)
        if CheckpointStore(folder / "checkpoints").load_latest() is not None:
            reconstruction = reopened(session)
            total, n = in_the_store(reconstruction)
            assert reconstruction.store.lost == 0
            assert (total, n) == (reconstruction.engine.total, reconstruction.engine.seen)
            reconstruction.close()
    session.start(turns=10, visits=120)
    engine = session.reconstruction.engine
    assert engine.seen == 80
    reconstruction = reopened(session)
    assert in_the_store(reconstruction) == (reconstruction.engine.total, 80)
    reconstruction.close()
    table = read_star(folder / "particles.star")
    assert len(table) == len(set(table.identities())) == 80
    assert BOX == 16
