"""What is counted of every particle is in the checkpoint, and counted anew only where that does not say it."""

from dataclasses import replace

import numpy as np
import pytest
from fakes import Ledger, SumEngine
from scipy.spatial.transform import Rotation
from sessions import Session, batches, make_config
from test_published_frame import TURN
from test_revisits import VisitEngine

from streamrecon.assess.directions import angular_counts
from streamrecon.geometry.orientation import Orientation
from streamrecon.io import PoseSpool
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.main import SPOOL_NAME
from streamrecon.worker.reconstruction import Reconstruction
from streamrecon.worker.tallies import Tallies

TURNED = Rotation.from_euler("ZYZ", [10, 70, 20], degrees=True).as_matrix().astype(np.float32)


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
    tallies = session.reconstruction.tallies
    return tallies.angular.sum(), tallies.defocus.sum()


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


def test_one_without_them_counts_what_the_pose_table_holds(tmp_path, counted_anew, monkeypatch):
    """As of an earlier release: its checkpoints have none."""
    session = Session(tmp_path, Ledger(batches(4)))
    with monkeypatch.context() as patch:
        patch.setattr(Tallies, "arrays", lambda tallies: {})
        session.start()
    before = session.reconstruction.tallies
    session.start()
    assert len(counted_anew) == 1
    np.testing.assert_array_equal(session.reconstruction.tallies.angular, before.angular)
    np.testing.assert_array_equal(session.reconstruction.tallies.defocus, before.defocus)


class TurnedEngine(VisitEngine):
    """Visits find every particle at another pose."""

    def revisit(self, kept, search):
        result = super().revisit(kept, search)
        return replace(result, rotation=np.broadcast_to(TURNED, result.rotation.shape))


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


def test_after_visits_it_counts_the_poses_as_they_are(kept, counted_anew):
    resume, save = kept
    reconstruction = folded(resume(TurnedEngine))
    reconstruction.revisit(80)
    save(reconstruction)
    resumed = resume(TurnedEngine)
    assert len(counted_anew) == 1
    np.testing.assert_array_equal(resumed.tallies.angular, angular_counts(np.broadcast_to(TURNED, (80, 3, 3))))
    # that is what it goes on with, and what the next checkpoint has
    save(resumed)
    resume(TurnedEngine).close()
    assert len(counted_anew) == 1


def test_in_another_frame_it_counts_anew(kept, counted_anew, monkeypatch):
    resume, save = kept
    reconstruction = folded(resume(FramedEngine))
    monkeypatch.setattr(FramedEngine, "turned", True)
    save(reconstruction)
    resumed = resume(FramedEngine)
    assert len(counted_anew) == 1
    views = angular_counts(np.broadcast_to(TURN.rotation.T, (80, 3, 3)))
    np.testing.assert_array_equal(resumed.tallies.angular, views)
    resumed.close()


def test_what_goes_into_a_checkpoint_does_not_change_with_the_next_batch(tmp_path):
    session = Session(tmp_path, Ledger(batches(4)), engine=SumEngine)
    session.start()
    arrays = session.reconstruction.tallies.arrays()
    kept = {name: array.copy() for name, array in arrays.items()}
    session.reconstruction.tallies.add(np.eye(3)[None], np.array([15000.0]))
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, kept[name])
    saved = CheckpointStore(tmp_path / "checkpoints").load_latest()
    restored = Tallies.restored(saved.state.arrays)
    np.testing.assert_array_equal(restored.angular, arrays["tally_angular"])
    np.testing.assert_array_equal(restored.defocus, arrays["tally_defocus"])


@pytest.mark.parametrize("name", ["tally_angular", "tally_defocus"])
def test_those_of_another_shape_are_not_taken(name):
    arrays = Tallies().arrays()
    assert Tallies.restored(arrays) is not None
    assert Tallies.restored(arrays | {name: arrays[name][:-1]}) is None
    assert Tallies.restored({other: array for other, array in arrays.items() if other != name}) is None
