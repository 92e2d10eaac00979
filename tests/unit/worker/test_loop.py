"""The worker's loop with stand-ins for engine and feed, and real checkpoints and files."""

import csv
import json

import mrcfile
import numpy as np
import pytest
import structlog
from fakes import BOX, PIXEL, Ledger, SumEngine, make_batch
from sessions import Crash, Session, batches, crash_after_folds, final_sums, make_config

from streamrecon.io import read_star
from streamrecon.particles import half_of
from streamrecon.transport import drafts
from streamrecon.worker import durability, loop
from streamrecon.worker.reconstruction import Reconstruction


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    monkeypatch.setattr(durability, "PAUSED_CHECKPOINT_SECONDS", 0.0)


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


def test_what_cannot_be_used_is_given_back_with_a_reason_and_the_rest_goes_on(tmp_path):
    good = batches(2)
    extreme = make_batch(3)
    # after the background is normalised it must still be extreme: put it inside the particle
    extreme.images[0, BOX // 2, BOX // 2] = 1e12
    nan = make_batch(4)
    nan.images[:] = np.nan
    ledger = Ledger(good | {3: extreme, 4: nan, 5: make_batch(5, pixel=4.0), 6: make_batch(6, box=18)})
    session = Session(tmp_path, ledger)
    with structlog.testing.capture_logs() as logged:
        assert session.start() == "drained"
    # log.level = "warning" must not hide what went wrong, nor fill up with what went right
    levels = {entry["event"]: entry["log_level"] for entry in logged}
    assert (levels["batch_refused"], levels["stage"], levels["drained"]) == ("warning", "info", "info")
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


def test_the_memory_of_the_device_is_told(tmp_path):
    class OnDevice(SumEngine):
        device_memory = (3_000, 10_000)

    session = Session(tmp_path, Ledger(batches(2)), engine=OnDevice)
    session.start()
    assert session.metric("gpu_memory_used_bytes") == 3_000
    assert session.metric("gpu_memory_total_bytes") == 10_000
    without = Session(tmp_path / "cpu", Ledger(batches(2)))
    without.start()
    assert without.metric("gpu_memory_total_bytes") == 0


def test_a_worker_that_resumed_says_at_once_where_it_stands(tmp_path):
    session = Session(tmp_path, Ledger(batches(3)))
    session.start()
    session.publisher.statuses.clear()
    session.start()  # and nothing new comes
    assert [status.particles_seen for status in session.publisher.statuses] == [60]
