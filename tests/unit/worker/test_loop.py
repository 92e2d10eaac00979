"""The worker's loop with stand-ins for engine and feed, and real checkpoints and files."""

import csv
import json
import threading

import mrcfile
import numpy as np
import pytest
from fakes import BOX, PIXEL, FakePublisher, Ledger, SumEngine, make_batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streamrecon.config.model import Config
from streamrecon.errors import CheckpointCorrupt, CheckpointIncompatible, StateError, StateUnwritable
from streamrecon.io import read_star, read_volume
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.particles import half_of
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.transport import drafts
from streamrecon.worker import loop
from streamrecon.worker.loop import Worker
from streamrecon.worker.main import SPOOL_NAME, exclusive
from streamrecon.worker.reconstruction import Reconstruction


class Crash(Exception):
    """Stands for SIGKILL: nothing is put in order afterwards."""


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setattr(loop, "PAUSED_CHECKPOINT_SECONDS", 0.0)


def make_config(folder, **tables):
    base = {"session": {"output_dir": folder}, "input": {"contrast": "protein_white"}, "assess": {"enabled": False}}
    return Config.model_validate(base | tables)


class Session:
    """One start of the worker after another on the same folder and ledger."""

    def __init__(self, folder, ledger, config=None, engine=SumEngine, control=None):
        self.folder, self.ledger, self.engine, self.control = folder, ledger, engine, control
        self.config = config or make_config(folder)
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.publisher = FakePublisher()

    def start(self, stop=None, sabotage=None):
        store = CheckpointStore(self.folder / "checkpoints")
        self.reconstruction = Reconstruction(self.config, self.engine, self.folder / SPOOL_NAME, store.load_latest())
        try:
            self.feed = self.ledger.connect(self.reconstruction.folded, self.reconstruction.feed_session)
            worker = Worker(
                self.config, self.feed, self.reconstruction, store, self.publisher, self.metrics, self.control
            )
            if sabotage is not None:
                sabotage(worker, self)
            return worker.run(stop or threading.Event())
        finally:
            self.reconstruction.close()

    def metric(self, name, **labels):
        return self.registry.get_sample_value(f"streamrecon_worker_{name}", labels)


def batches(n=6, **options):
    return {i: make_batch(i, **options) for i in range(1, n + 1)}


def final_sums(session):
    return [read_volume(session.folder / "snapshots" / f"half_{h}.mrc")[0] for h in "ab"]


def test_the_poses_of_every_batch_are_published_in_the_order_of_the_pose_table(tmp_path):
    session = Session(tmp_path, Ledger(batches(3)))
    session.start()
    published = []
    for batch_id, result, half, status in session.publisher.poses:
        message = drafts.poses_draft(batch_id, result, half, status, 0.0).build("s", 1)
        rows = range(message.header.first_particle, message.header.first_particle + len(message.table))
        published += [(i, int(h), batch_id) for i, h in zip(rows, message.column("half"), strict=True)]
    assert [i for i, _, _ in published] == list(range(60))
    table = read_star(tmp_path / "particles.star")
    in_table = [
        f"{n + 1:06d}@{table.stack_names[s]}" for s, n in zip(table.stack_number, table.stack_index, strict=True)
    ]
    assert [half_of(name) for name in in_table] == [half for _, half, _ in published]
    assert [int(name.split("@stack")[1].split(".")[0]) for name in in_table] == [b for _, _, b in published]


def test_a_stream_is_folded_and_leaves_its_files(tmp_path):
    session = Session(tmp_path, Ledger(batches(6)))
    assert session.start() == "drained"
    assert session.ledger.acked == set(range(1, 7))
    folder = tmp_path / "snapshots"
    status = json.loads((folder / "status.json").read_text())
    assert status["particles_seen"] == 120
    assert status["coarse_entropy"] is None
    with (folder / "fsc.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == BOX // 2 + 1
    assert float(rows[2]["resolution_angstrom"]) == BOX * PIXEL / 2
    with mrcfile.open(folder / "volume.mrc") as file:
        assert file.voxel_size.x == pytest.approx(PIXEL)
        np.testing.assert_allclose(file.data, sum(final_sums(session)), rtol=1e-6)
    table = read_star(tmp_path / "particles.star")
    assert len(table) == 120
    assert len(set(table.identities())) == 120
    assert session.metric("particles_folded_total") == 120
    assert session.publisher.statuses[-1].particles_seen == 120
    assert session.publisher.events[-1][0] == "drained"


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


def crash_after_folds(n, *, acknowledged=False):
    """Crash before fold n + 1; with ``acknowledged`` only once the checkpoint under way is durable and said to be."""

    def sabotage(worker, session):
        fold = session.reconstruction.fold
        left = [n]

        def counted(*arguments):
            if left[0] == 0:
                if acknowledged:
                    worker._finish_checkpoint(None)
                raise Crash
            left[0] -= 1
            return fold(*arguments)

        session.reconstruction.fold = counted

    return sabotage


def crash_at_ack(worker, session):
    def crash():
        raise Crash

    session.feed.on_ack = crash


def crash_while_saving(worker, session):
    def crash(*arguments):
        raise Crash

    worker._checkpointer._store.save = crash


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


def test_what_cannot_be_used_is_given_back_with_a_reason_and_the_rest_goes_on(tmp_path):
    good = batches(2)
    extreme = make_batch(3)
    # after the background is normalised it must still be extreme: put it inside the particle
    extreme.images[0, BOX // 2, BOX // 2] = 1e12
    nan = make_batch(4)
    nan.images[:] = np.nan
    ledger = Ledger(good | {3: extreme, 4: nan, 5: make_batch(5, pixel=4.0), 6: make_batch(6, box=18)})
    session = Session(tmp_path, ledger)
    assert session.start() == "drained"
    assert {i: kind for i, (kind, _) in ledger.nacked.items()} == {
        3: "numerical_error",
        4: "stack_corrupt",
        5: "manifest_mismatch",
        6: "manifest_mismatch",
    }
    assert "found 16 pixels at 4 angstrom" in ledger.nacked[5][1]
    assert ledger.acked == {1, 2}
    assert session.metric("errors_total", kind="numerical_error") == 1
    assert session.metric("errors_total", kind="manifest_mismatch") == 2
    assert [e[0] for e in session.publisher.events].count("batch_refused") == 4


def test_a_bad_image_is_left_out_of_its_batch(tmp_path):
    ledger = Ledger(batches(2))
    ledger.batches[2].images[5] = np.nan
    ledger.batches[2].images[7] = 0.25
    Session(tmp_path, ledger).start()
    names = set(read_star(tmp_path / "particles.star").identities())
    assert len(names) == 38
    assert not {n for n in names if n.endswith(("000006@stack2.mrcs", "000008@stack2.mrcs"))}
    assert ledger.acked == {1, 2}


@pytest.mark.parametrize("white", [True, False])
def test_contrast_is_found_and_kept_over_a_restart(tmp_path, white):
    ledger = Ledger(batches(6, white=white))
    config = make_config(tmp_path, input={"contrast": "auto"}, checkpoint={"every_seconds": 0.0001})
    session = Session(tmp_path, ledger, config)
    with pytest.raises(Crash):
        session.start(sabotage=crash_after_folds(4, acknowledged=True))
    assert ledger.acked
    session.start()
    centre = [half[BOX // 2, BOX // 2, BOX // 2] for half in final_sums(session)]
    assert all(value > 0 for value in centre)
    expected = "protein_white" if white else "protein_black"
    assert session.reconstruction.contrast == expected
    assert ledger.acked == set(range(1, 7))


def test_unclear_contrast_waits_for_more_images_and_is_then_taken_as_white(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CONTRAST_IMAGES", 80)
    noise = batches(5)
    rng = np.random.default_rng(0)
    for batch in noise.values():
        batch.images[:] = rng.normal(size=batch.images.shape)
    folded_at = []

    def watch(worker, session):
        fold = session.reconstruction.fold

        def noted(*arguments):
            folded_at.append(len(session.feed.handed_out))
            return fold(*arguments)

        session.reconstruction.fold = noted

    session = Session(tmp_path, Ledger(noise), make_config(tmp_path, input={"contrast": "auto"}))
    session.start(sabotage=watch)
    assert folded_at == [4, 4, 4, 4, 5]
    assert session.reconstruction.contrast == "protein_white"


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


def test_a_pose_table_that_lost_rows_is_found(tmp_path):
    ledger = Ledger(batches(2))
    Session(tmp_path, ledger).start()
    spool = tmp_path / SPOOL_NAME
    spool.write_bytes(spool.read_bytes()[:-10])
    with pytest.raises(CheckpointCorrupt, match="recorded"):
        Session(tmp_path, ledger).start()


def test_a_failed_checkpoint_is_tried_again_and_nothing_is_acknowledged_meanwhile(tmp_path):
    ledger = Ledger(batches(3))
    session = Session(tmp_path, ledger)

    def full_disk_once(worker, session):
        store = worker._checkpointer._store
        save = store.save

        def failing(*arguments):
            store.save = save
            assert not ledger.acked
            raise StateError("No space left on device")

        store.save = failing

    assert session.start(sabotage=full_disk_once) == "drained"
    assert session.metric("errors_total", kind="state_error") == 1
    assert ledger.acked == {1, 2, 3}
    assert "checkpoint_failed" in [e[0] for e in session.publisher.events]


def test_snapshots_come_by_images(tmp_path):
    config = make_config(tmp_path, snapshot={"every_images": 40, "every_seconds": 1000})
    session = Session(tmp_path, Ledger(batches(6)), config)
    session.start()
    # the first batch at once, then every 40 images, then the end
    assert [s.status.particles_seen for s in session.publisher.snapshots] == [20, 60, 100, 120]


def test_optics_groups_are_counted_over_batches(tmp_path):
    ledger = Ledger({1: make_batch(1, group="x"), 2: make_batch(2, group="y"), 3: make_batch(3, group="x")})
    session = Session(tmp_path, ledger)
    with pytest.raises(Crash):
        session.start(sabotage=crash_after_folds(2))
    session.start()
    table = read_star(tmp_path / "particles.star")
    names = [table.optics_groups[g].name for g in table.optics_group_index]
    assert names == ["x"] * 20 + ["y"] * 20 + ["x"] * 20


def test_a_second_worker_on_the_same_folder_is_refused(tmp_path):
    with (
        exclusive(tmp_path / "out"),
        pytest.raises(StateError, match="another worker is using"),
        exclusive(tmp_path / "out"),
    ):
        pass
    with exclusive(tmp_path / "out"):
        pass


def test_the_pose_table_can_be_read_while_the_session_runs(tmp_path, monkeypatch):
    """Exported at snapshots, but only when it has grown by a quarter: the copies stay in proportion."""
    config = make_config(tmp_path, snapshot={"every_images": 20, "every_seconds": 1000})
    session = Session(tmp_path, Ledger(batches(10)), config)
    exported = []
    export = Reconstruction.export

    def watched(self, path):
        exported.append(export(self, path))
        return exported[-1]

    monkeypatch.setattr(Reconstruction, "export", watched)
    session.start()
    # each time the table has grown by a quarter since the last export, and at the end
    assert exported == [20, 40, 60, 80, 100, 140, 180, 200]
    assert len(read_star(tmp_path / "particles.star")) == 200


def test_a_pose_table_that_cannot_be_exported_is_told_and_the_session_goes_on(tmp_path, monkeypatch):
    session = Session(tmp_path, Ledger(batches(3)))
    export, failures = Reconstruction.export, [OSError(28, "No space left on device")]

    def failing(self, path):
        if failures:
            raise failures.pop()
        return export(self, path)

    monkeypatch.setattr(Reconstruction, "export", failing)
    session.start()
    assert "export_failed" in [e[0] for e in session.publisher.events]
    assert len(read_star(tmp_path / "particles.star")) == 60


def test_with_no_room_for_checkpoints_it_takes_only_so_many_batches(tmp_path, monkeypatch):
    """What is folded but not durable stays bounded, and nothing is acknowledged, until there is room again."""
    monkeypatch.setattr(loop, "MAX_UNACKNOWLEDGED", 2)
    monkeypatch.setattr(loop, "_UNACKNOWLEDGED_LIMIT", 4)
    monkeypatch.setattr(loop, "_RETRY_CHECKPOINT_SECONDS", 0.01)
    ledger = Ledger(batches(10))
    session = Session(tmp_path, ledger)
    held = []

    def full_disk(worker, session):
        store = worker._checkpointer._store
        save = store.save

        def failing(*arguments):
            held.append(len(worker._unacknowledged))
            assert len(held) > 8 or not ledger.acked
            if len(held) <= 8:
                raise StateUnwritable("No space left on device")
            return save(*arguments)

        store.save = failing

    assert session.start(sabotage=full_disk) == "drained"
    assert ledger.acked == set(range(1, 11))
    assert max(held) <= 4
    assert session.metric("errors_total", kind="state_unwritable") == 8
