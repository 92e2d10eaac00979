"""Exactly once: whatever fails or ends, nothing is acknowledged before it is durable, and nothing is folded twice."""

import json
import threading
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import structlog
from fakes import Ledger, make_batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessions import Crash, Session, batches, crash_after_folds, final_sums, make_config

from streamrecon.errors import CheckpointCorrupt, CheckpointIncompatible, StateError, StateUnwritable
from streamrecon.io import read_star
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker import durability
from streamrecon.worker.main import SPOOL_NAME, exclusive
from streamrecon.worker.record import WorkerRecord


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setattr(durability, "PAUSED_CHECKPOINT_SECONDS", 0.0)


def test_nothing_is_acknowledged_before_it_is_durable(tmp_path):
    ledger = Ledger(batches(4))
    session = Session(tmp_path, ledger)

    def check():
        durable = CheckpointStore(tmp_path / "checkpoints").load_latest()
        held = {i for first, last in durable.extra["folded"] for i in range(first, last + 1)}
        assert ledger.acked <= held
        checks.append(held)

    checks = []

    def sabotage(worker, session):
        ack = session.feed.ack

        def checked(ids):
            ids = list(ids)
            ack(ids)
            check()

        session.feed.ack = checked

    session.start(sabotage=sabotage)
    assert checks
    assert ledger.acked == {1, 2, 3, 4}


def crash_at_ack(worker, session):
    def crash():
        raise Crash

    session.feed.on_ack = crash


def crash_while_saving(worker, session):
    def crash(*arguments):
        raise Crash

    worker._durability._checkpointer._store.save = crash


crashes = st.integers(0, 7).map(crash_after_folds) | st.sampled_from([crash_at_ack, crash_while_saving])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(crashes, max_size=4), every=st.sampled_from([0.0001, 1000.0]))
def test_whatever_crashes_each_particle_counts_once_and_the_map_is_the_same(tmp_path_factory, plan, every):
    folder = tmp_path_factory.mktemp("session")
    reference = Session(folder / "reference", Ledger(batches(8)))
    reference.start()
    out = folder / "crashing"
    session = Session(out, Ledger(batches(8)), make_config(out, checkpoint={"every_seconds": every}))
    for sabotage in plan:
        try:
            session.start(sabotage=sabotage)
        except Crash:
            continue
        break
    assert session.start() == "drained"
    for found, expected in zip(final_sums(session), final_sums(reference), strict=True):
        np.testing.assert_array_equal(found, expected)
    found, expected = (read_star(s.folder / "particles.star") for s in (session, reference))
    assert found.identities() == expected.identities()
    assert session.ledger.acked == set(range(1, 9))


def test_a_stop_makes_everything_durable_and_the_next_start_goes_on(tmp_path):
    ledger = Ledger(batches(6))
    stop = threading.Event()

    def stop_after_three(worker, session):
        fold = session.reconstruction.fold
        count = [0]

        def counted(*arguments):
            count[0] += 1
            if count[0] == 3:
                stop.set()
            return fold(*arguments)

        session.reconstruction.fold = counted

    session = Session(tmp_path, ledger, make_config(tmp_path, checkpoint={"every_seconds": 1000.0}))
    assert session.start(stop, stop_after_three) == "stopped"
    assert ledger.acked == {1, 2, 3}
    assert len(read_star(tmp_path / "particles.star")) == 60
    again = Session(tmp_path, ledger)
    assert again.start() == "drained"
    assert again.metric("particles_folded_total") == 60
    assert json.loads((tmp_path / "snapshots" / "status.json").read_text())["particles_seen"] == 120


def test_a_batch_delivered_twice_is_dropped(tmp_path):
    session = Session(tmp_path, Ledger(batches(3)))

    def twice(worker, session):
        poll = session.feed.poll
        last = []

        def doubled(timeout):
            if last:
                return last.pop()
            item = poll(timeout)
            if item is not None:
                last.append(item)
            return item

        session.feed.poll = doubled

    session.start(sabotage=twice)
    assert session.metric("batches_dropped_total") == 3
    assert session.metric("particles_folded_total") == 60


def test_another_configuration_is_refused_key_by_key(tmp_path):
    ledger = Ledger(batches(2))
    Session(tmp_path, ledger).start()
    changed = make_config(tmp_path, engine={"samples": 7}, session={"output_dir": tmp_path, "seed": 5})
    with pytest.raises(CheckpointIncompatible) as caught:
        Session(tmp_path, ledger, changed).start()
    assert "engine.samples: the checkpoint has 64, the configuration 7" in str(caught.value)
    assert "session.seed: the checkpoint has 0, the configuration 5" in str(caught.value)


def test_more_threads_or_another_snapshot_rate_is_no_other_reconstruction(tmp_path):
    ledger = Ledger(batches(2))
    Session(tmp_path, ledger).start()
    Session(tmp_path, ledger, make_config(tmp_path, engine={"threads": 3}, snapshot={"every_images": 3})).start()


def cut(path, at):
    path.write_bytes(path.read_bytes()[:at])


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def with_checkpoints(folder, n):
    """Return the ledger of a session with a checkpoint after each batch, and what each recorded of the pose table."""
    ledger = Ledger(batches(n))
    session = Session(folder, ledger, make_config(folder, checkpoint={"every_seconds": 1e-9, "keep": n}))
    recorded = []

    def note(worker, session):
        def finished(timeout_seconds, *, must=False):
            finish(None, must=must)  # none is left out because another is being written
            if len(recorded) < len(ledger.acked):
                recorded.append(session.reconstruction._recorded.rows)

        finish, worker._durability.finish = worker._durability.finish, finished

    session.start(sabotage=note)
    assert len(recorded) == n
    return ledger, recorded


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_pose_table_that_is_not_whole_leads_to_the_checkpoint_that_has_what_is(tmp_path, damage):
    reference, out = tmp_path / "reference", tmp_path / "out"
    with_checkpoints(reference, 4)
    ledger, recorded = with_checkpoints(out, 4)
    table = out / SPOOL_NAME
    damage(table, recorded[1] + 10)
    ledger.acked.clear()  # all come again, those that the checkpoint has are dropped
    again = Session(out, ledger)
    again.start()
    assert again.metric("batches_dropped_total") == 0
    assert again.metric("particles_folded_total") == 40
    assert table.read_bytes() == (reference / SPOOL_NAME).read_bytes()
    assert (out / "checkpoints" / "corrupt-000004").is_dir()
    for name in ("particles.star", "snapshots/volume.mrc"):
        assert len((out / name).read_bytes()) == len((reference / name).read_bytes())


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_pose_table_that_no_checkpoint_finds_whole_ends_it(tmp_path, damage):
    ledger, recorded = with_checkpoints(tmp_path, 2)
    damage(tmp_path / SPOOL_NAME, recorded[0] - 10)
    with pytest.raises(CheckpointCorrupt, match=rf"none of 2 checkpoints(?s:.*){SPOOL_NAME}"):
        Session(tmp_path, ledger).start()
    assert len(list((tmp_path / "checkpoints").glob("checkpoint-*"))) == 2


def test_a_checkpoint_without_checksums_of_the_pose_table_is_gone_on_from(tmp_path, monkeypatch):
    """As earlier releases wrote it."""
    earlier = WorkerRecord.to_json_able

    def without(record):
        return {name: value for name, value in earlier(record).items() if not name.endswith("crc32")}

    with monkeypatch.context() as patch:
        patch.setattr(WorkerRecord, "to_json_able", without)
        ledger, _ = with_checkpoints(tmp_path, 2)
    flip(tmp_path / SPOOL_NAME, 5)  # a digit of the first particle's name
    ledger.batches |= {3: make_batch(3)}
    Session(tmp_path, ledger).start()
    record = CheckpointStore(tmp_path / "checkpoints").load_latest().extra
    assert record["pose_spool_crc32"] == zlib.crc32((tmp_path / SPOOL_NAME).read_bytes())


def test_a_failed_checkpoint_is_tried_again_and_nothing_is_acknowledged_meanwhile(tmp_path):
    ledger = Ledger(batches(3))
    session = Session(tmp_path, ledger)

    def full_disk_once(worker, session):
        store = worker._durability._checkpointer._store
        save = store.save

        def failing(*arguments):
            store.save = save
            assert not ledger.acked
            raise StateError("No space left on device")

        store.save = failing

    with structlog.testing.capture_logs() as logged:
        assert session.start(sabotage=full_disk_once) == "drained"
    assert [e["log_level"] for e in logged if e["event"] == "checkpoint_failed"] == ["warning"]
    assert session.metric("errors_total", kind="state_error") == 1
    assert ledger.acked == {1, 2, 3}
    assert "checkpoint_failed" in [e[0] for e in session.publisher.events]


def test_copying_the_state_counts_as_the_checkpoints_time(tmp_path, monkeypatch):
    session = Session(tmp_path, Ledger(batches(1)))
    behind = [0.0]
    monkeypatch.setattr(durability, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + behind[0]))

    def slow(worker, session):
        def state(*arguments):
            behind[0] += 1000.0
            return copied(*arguments)

        copied, session.reconstruction.state = session.reconstruction.state, state

    session.start(sabotage=slow)
    assert session.metric("checkpoint_write_seconds") >= 1000.0


def test_a_second_worker_on_the_same_folder_is_refused(tmp_path):
    with (
        exclusive(tmp_path / "out"),
        pytest.raises(StateError, match="another worker is using"),
        exclusive(tmp_path / "out"),
    ):
        pass
    with exclusive(tmp_path / "out"):
        pass


def test_with_no_room_for_checkpoints_it_takes_only_so_many_batches(tmp_path, monkeypatch):
    """What is folded but not durable stays bounded, and nothing is acknowledged, until there is room again."""
    monkeypatch.setattr(durability, "MAX_UNACKNOWLEDGED", 2)
    monkeypatch.setattr(durability, "_UNACKNOWLEDGED_LIMIT", 4)
    monkeypatch.setattr(durability, "_RETRY_CHECKPOINT_SECONDS", 0.01)
    ledger = Ledger(batches(10))
    session = Session(tmp_path, ledger)
    held = []

    def full_disk(worker, session):
        store = worker._durability._checkpointer._store
        save = store.save

        def failing(*arguments):
            held.append(len(worker._durability.unacknowledged))
            assert len(held) > 8 or not ledger.acked
            if len(held) <= 8:
                raise StateUnwritable("No space left on device")
            return save(*arguments)

        store.save = failing

    assert session.start(sabotage=full_disk) == "drained"
    assert ledger.acked == set(range(1, 11))
    assert max(held) <= 4
    assert session.metric("errors_total", kind="state_unwritable") == 8
