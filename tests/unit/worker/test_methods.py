"""Optimisers in the worker itself: killed and resumed the map is the same bit for bit, and nothing is visited again."""

import json

import numpy as np
import pytest
from fakes import Ledger
from sessions import Crash, Session, crash_after_folds, final_sums, make_config

from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.engine import make_engine
from tests.simulated import batches, f1_atpase


@pytest.fixture(scope="module")
def ledger_batches():
    """Six batches of forty particles, at 32 pixels."""
    return {i: b for i, (b, _) in enumerate(batches(f1_atpase(32, 6.4), 6.4, 240, 0.5, seed=4, size=40), start=1)}


def config(folder, method):
    engine = {
        "method": method, "starts": 1, "threads": 1, "samples": 16, "rounds": 1, "settle_images": 80,
        "images_per_shell": 40, "direction_order": 2, "in_plane_angles": 24, "update_images": 40,
    }  # fmt: skip
    return make_config(folder, engine=engine, checkpoint={"every_seconds": 0.0001}, compute={"backend": "cpu"})


@pytest.mark.parametrize("method", ["nesterov", "olbfgs", "sagd"])
def test_a_killed_worker_goes_on_to_the_same_map(tmp_path, ledger_batches, method):
    whole = tmp_path / "whole"
    reference = Session(whole, Ledger(ledger_batches), config(whole, method), make_engine)
    assert reference.start() == "drained"
    killed = tmp_path / "killed"
    session = Session(killed, Ledger(ledger_batches), config(killed, method), make_engine)
    for folds in (2, 3):
        with pytest.raises(Crash):
            session.start(sabotage=crash_after_folds(folds, acknowledged=True))
    state = CheckpointStore(killed / "checkpoints").load_latest().state
    assert {name for name in state.arrays if name.startswith("start0_vector_")} == {
        "start0_vector_a",
        "start0_vector_b",
    }
    assert "start0_optimiser_b_step_size" in state.scalars
    assert session.start() == "drained"
    for found, expected in zip(final_sums(session), final_sums(reference), strict=True):
        assert np.array_equal(found, expected)
    status = json.loads((killed / "snapshots" / "status.json").read_text())
    assert status["method"] == method
    assert status["step_size"] > 0
    assert status["particles_seen"] == status["image_visits"] == 240
    assert not list(killed.glob("*.store"))  # nothing is kept to be visited again
    assert session.publisher.statuses[-1].method == method
