"""An engine on several ranks is used like an engine of one; what goes wrong on another rank is told by name."""

import os
import signal

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.config.model import Config
from streamrecon.errors import DeviceError, NumericalError, RankLost
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.results import EngineLike
from streamrecon.worker.ranks.shared_engine import SharedEngine
from tests.ranks import ThreadTeam
from tests.simulated import batches, f1_atpase

BOX, PIXEL = 32, 6.4
CONFIG = Config.model_validate(
    {
        "session": {"seed": 1},
        "compute": {"backend": "cpu", "devices": [0, 1]},
        "engine": {
            "starts": 1, "threads": 1, "search_shells": 8, "in_plane_angles": 24, "direction_order": 2, "samples": 16,
        },
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def particles():
    return [b for b, _ in batches(f1_atpase(BOX, PIXEL), PIXEL, 60, 4.0, seed=3, size=30)]


@pytest.fixture
def shared():
    """Make engines on two ranks; they are closed at the end."""
    made = []

    def make(sabotage=lambda follower: None, patience_seconds=60.0):
        team = ThreadTeam(2, sabotage, patience_seconds)
        made.append(SharedEngine(CONFIG, BOX, PIXEL, CpuBackend(1), team))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def alone() -> EngineLike:
    return Engine(CONFIG.engine, BOX, PIXEL, CpuBackend(1), 1, keep=True)


def test_it_is_used_like_an_engine_of_one(shared, particles):
    found, expected = shared(), alone()
    assert found.layout == expected.layout
    for batch in particles:
        results = [engine.fold(batch) for engine in (found, expected)]
        np.testing.assert_allclose(results[0].rotation, results[1].rotation, atol=1e-4)
    search = np.arange(30) % 2 == 0
    for engine in (found, expected):
        engine.revisit(results[1].kept, search)
    assert found.status.image_visits == expected.status.image_visits == 90
    maps = [engine.snapshot().volume for engine in (found, expected)]
    assert np.abs(maps[0] - maps[1]).max() < 1e-4 * np.abs(maps[1]).max()
    again = shared()
    again.restore(found.state())
    # the copy on the other rank is its own: what lies in shared memory is written over
    again.fold(particles[0])
    assert again.status.particles_seen == 90
    assert again.status.image_visits == 120


def test_a_batch_that_is_refused_leaves_all_where_they_were(shared, particles):
    engine = shared()
    engine.fold(particles[0])
    bad = particles[1].select(np.arange(9))
    bad.images[2] = np.nan
    with pytest.raises(NumericalError, match="1 particles have a power spectrum that is not finite"):
        engine.fold(bad)
    engine.fold(particles[1])
    assert engine.status.particles_seen == 60


def test_a_device_that_cannot_be_used_is_named(monkeypatch):
    def sabotage(follower):
        def start(words):
            raise DeviceError("no such device")

        follower._start = start

    team = ThreadTeam(2, sabotage)
    with pytest.raises(DeviceError, match=r"^rank 1: no such device"):
        SharedEngine(CONFIG, BOX, PIXEL, CpuBackend(1), team)


def fails_in_fold(error):
    """The rank's next fold fails half-way: what rank 0 waits for does not come."""

    def sabotage(follower):
        obey = follower._obey

        def failing(verb, words, arrays):
            if verb == "fold":
                raise error
            return obey(verb, words, arrays)

        follower._obey = failing

    return sabotage


def test_a_rank_that_dies_in_a_step_is_named_and_nothing_goes_on(shared, particles):
    engine = shared(fails_in_fold(SystemExit(3)))
    with pytest.raises(RankLost, match="rank 1 is gone"):
        engine.fold(particles[0])
    for use in (engine.snapshot, engine.state, lambda: engine.fold(particles[1])):
        with pytest.raises(RankLost, match="start again, from the checkpoint"):
            use()


def test_an_error_of_one_rank_alone_is_told(shared, particles):
    engine = shared(fails_in_fold(DeviceError("not even one image fits")))
    with pytest.raises(RankLost, match="rank 1 ended its step: not even one image fits"):
        engine.fold(particles[0])


def test_ranks_that_end_a_step_differently_are_out_of_step(shared, particles):
    """Rank 0 does well where the other finds something not finite: they may not go on together."""

    def sabotage(follower):
        obey = follower._obey

        def refusing(verb, words, arrays):
            facts = obey(verb, words, arrays)
            if verb == "fold":
                raise NumericalError("not finite here")
            return facts

        follower._obey = refusing

    engine = shared(sabotage)
    engine.fold(particles[0])
    with pytest.raises(RankLost, match=r"rank 1 ended its step in numerical_error \(not finite here\)"):
        engine.fold(particles[1])


def test_ctrl_c_waits_for_the_end_of_a_step(shared, particles):
    engine = shared()
    own = engine._engine.fold

    def interrupted(batch):
        os.kill(os.getpid(), signal.SIGINT)
        return own(batch)

    engine._engine.fold = interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.fold(particles[0])
    engine._engine.fold = own
    assert engine.status.particles_seen == 30
    assert engine.snapshot().status.particles_seen == 30  # as `reconstruct` does after Ctrl-C
