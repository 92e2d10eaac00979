"""What is counted of every particle is in the checkpoint, and counted anew only where that does not say it."""

import numpy as np
import pytest
from fakes import Ledger, SumEngine
from sessions import Session, batches

from streamrecon.io import PoseSpool
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.tallies import Tallies


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
