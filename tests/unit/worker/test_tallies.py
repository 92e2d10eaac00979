"""What is counted of every particle: it follows visits, is told in the published frame, and is in the checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import Ledger, SumEngine
from sessions import Session, batches, make_config
from test_published_frame import TURN, assert_seen_along
from test_revisits import VisitEngine

from streamrecon.assess.directions import angular_counts
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.rotation import random_rotations, rotation_from_euler
from streamrecon.io import PoseSpool
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.state.store_index import NO_VIEW, StoreIndex
from streamrecon.worker.main import SPOOL_NAME
from streamrecon.worker.reconstruction import Reconstruction
from streamrecon.worker.tallies import Tallies, views_of


@pytest.fixture
def counted_anew(monkeypatch):
    """Return how often all poses of the session were read for it."""
    chunks, times = PoseSpool.chunks, []

    def noted(spool):
        times.append(spool)
        return chunks(spool)

    monkeypatch.setattr(PoseSpool, "chunks", noted)
    return times


def counts(session):
    told = session.reconstruction.told()
    return told.angular.sum(), told.defocus.sum()


def test_a_resumed_session_goes_on_counting(tmp_path, counted_anew):
    ledger = Ledger(batches(4))
    session = Session(tmp_path, ledger)
    session.start()
    before = session.reconstruction.tallies
    ledger.batches |= {5: batches(5)[5]}
    session.start()
    assert counts(session) == (100, 100)
    added = session.reconstruction.tallies.defocus - before.defocus
    assert (added.sum(), added.min()) == (20, 0)
    assert counted_anew == []


class SpreadEngine(VisitEngine):
    """Finds each particle at a pose of its own, and at another one in every visit."""

    drawn = 0

    def spread(self, result):
        self.drawn += 1
        rng = np.random.default_rng(self.drawn)
        return replace(result, rotation=random_rotations(rng, len(result.rotation)).astype(np.float32))

    def fold(self, batch):
        return self.spread(super().fold(batch))

    def revisit(self, kept, search):
        return self.spread(super().revisit(kept, search))


class FramedEngine(SumEngine):
    """Publishes in another frame once it is told to, as after visits."""

    turned = False

    @property
    def orientation(self):
        return TURN if FramedEngine.turned else Orientation()


@pytest.fixture
def kept(tmp_path):
    """Return what resumes an engine's reconstruction from its newest checkpoint, and what saves one."""
    config, spool = make_config(tmp_path), tmp_path / SPOOL_NAME
    store = CheckpointStore(tmp_path / "checkpoints")

    def resume(engine):
        return Reconstruction(config, engine, spool, store.load_latest())

    def save(reconstruction):
        reconstruction.sync()
        store.save(*reconstruction.state(""))
        reconstruction.close()

    return resume, save


def folded(reconstruction):
    reconstruction.contrast = "protein_white"
    for number, batch in batches(4).items():
        reconstruction.fold(number, batch)
    return reconstruction


def in_the_pose_table(reconstruction):
    """Return the views as all rows say, one by one, in the frame of the published map."""
    euler = np.concatenate([rows.euler_degrees for rows in reconstruction._spool.chunks()])
    return angular_counts(reconstruction.engine.orientation.publish(rotation_from_euler(euler), np.zeros((80, 2)))[0])


def assert_as_in_the_pose_table(reconstruction):
    told = reconstruction.told()
    assert told.angular.sum() == told.defocus.sum() == 80
    # six decimals in the table: a view on a pixel's border may fall on the other side
    assert np.abs(told.angular - in_the_pose_table(reconstruction)).sum() <= 2


def test_a_visit_moves_its_particles_view_also_after_a_restart(kept, counted_anew):
    resume, save = kept
    reconstruction = folded(resume(SpreadEngine))
    at_first = reconstruction.told()
    for n in (30, 80, 50):
        reconstruction.revisit(n)
        reconstruction.store.index.sweep += 1
    assert_as_in_the_pose_table(reconstruction)
    assert np.abs(reconstruction.told().angular - at_first.angular).sum() > 80
    before = reconstruction.told()
    del counted_anew[:]
    save(reconstruction)
    resumed = resume(SpreadEngine)
    assert counted_anew == []
    np.testing.assert_array_equal(resumed.told().angular, before.angular)
    resumed.revisit(80)
    assert_as_in_the_pose_table(resumed)
    resumed.close()


@pytest.mark.parametrize("has_tallies", [True, False])
def test_of_an_earlier_releases_particles_the_views_stay_as_they_were_counted(kept, has_tallies, monkeypatch):
    """Its index does not say what they were counted as; new particles are known, and visits are made of all."""
    resume, save = kept
    with monkeypatch.context() as patch:
        patch.setattr(StoreIndex, "checkpoint", without_views(StoreIndex.checkpoint))
        if not has_tallies:
            patch.setattr(Tallies, "arrays", lambda tallies: {})
        save(folded(resume(SpreadEngine)))
    resumed = resume(SpreadEngine)
    before = resumed.told()
    assert_as_in_the_pose_table(resumed)
    assert len(resumed.store) == 80
    assert (resumed.store.index.views(np.arange(80)) == NO_VIEW).all()
    resumed.revisit(80)
    np.testing.assert_array_equal(resumed.told().angular, before.angular)
    assert resumed.engine.visits == 160
    resumed.fold(5, batches(5)[5])
    resumed.store.index.sweep += 1
    resumed.revisit(100)
    moved = resumed.told().angular - before.angular
    assert (moved.sum(), np.abs(moved).sum()) == (20, 20)
    resumed.close()


def without_views(checkpoint):
    """Return what makes a checkpoint of an index as it was before it had views."""

    def as_before(index):
        arrays, scalars = checkpoint(index)
        entries = arrays["store_index"]
        before = np.zeros(len(entries), [field for field in entries.dtype.descr if field[0] != "view"])
        for name in before.dtype.names:
            before[name] = entries[name]
        return {"store_index": before}, scalars

    return as_before


def test_views_are_told_in_the_published_frame_without_a_look_at_the_poses(kept, counted_anew, monkeypatch):
    resume, save = kept
    reconstruction = folded(resume(FramedEngine))
    monkeypatch.setattr(FramedEngine, "turned", True)
    beam = TURN.rotation.T[:, 2]
    assert_seen_along(beam, reconstruction.told(), 80)
    save(reconstruction)
    resumed = resume(FramedEngine)
    assert_seen_along(beam, resumed.told(), 80)
    resumed.close()
    assert counted_anew == []


def test_the_fine_pixels_lie_whole_within_those_that_are_told():
    """So in the own frame nothing is rounded; in another one a view is half a fine pixel off at most."""
    rng = np.random.default_rng(3)
    rotation = random_rotations(rng, 20_000)
    tallies = Tallies()
    tallies.add(views_of(rotation), np.full(len(rotation), np.nan))
    np.testing.assert_array_equal(tallies.told(Orientation()).angular, angular_counts(rotation))
    turned = tallies.told(TURN).angular
    wanted = angular_counts(TURN.publish(rotation, np.zeros((len(rotation), 2)))[0])
    assert turned.sum() == len(rotation)
    # a fine pixel is an eighth of the others across
    assert np.abs(turned - wanted).sum() < 0.2 * len(rotation)
    assert np.abs(tallies.told(Orientation()).angular - wanted).sum() > 0.2 * len(rotation)


def test_what_goes_into_a_checkpoint_does_not_change_with_the_next_batch(tmp_path):
    session = Session(tmp_path, Ledger(batches(4)), engine=SumEngine)
    session.start()
    arrays = session.reconstruction.tallies.arrays()
    told = session.reconstruction.told()
    kept = {name: array.copy() for name, array in arrays.items()}
    session.reconstruction.tallies.add(views_of(np.eye(3)[None]), np.array([15000.0]))
    assert told.angular.sum() == told.defocus.sum() == 80
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, kept[name])
    saved = CheckpointStore(tmp_path / "checkpoints").load_latest()
    restored = Tallies.restored(saved.state.arrays)
    np.testing.assert_array_equal(restored.views, arrays["tally_views"])
    np.testing.assert_array_equal(restored.defocus, arrays["tally_defocus"])


@pytest.mark.parametrize("name", ["tally_views", "tally_defocus"])
def test_those_of_another_shape_are_not_taken(name):
    arrays = Tallies().arrays()
    assert Tallies.restored(arrays) is not None
    assert Tallies.restored(arrays | {name: arrays[name][:-1]}) is None
    assert Tallies.restored({other: array for other, array in arrays.items() if other != name}) is None
