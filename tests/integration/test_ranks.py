"""One reconstruction on several ranks is that of one, to rounding: what is found of each image, and the sums.

The ranks are threads here, each with an engine and a backend of its own, and exchange through real connections and
shared memory.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from streamrecon.compute.cpu import CpuBackend
from streamrecon.errors import NumericalError
from streamrecon.geometry.orientation import Orientation
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.kept import joined
from streamrecon.reconstruct.results import EngineState
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.worker.ranks.collective import RankCollective
from tests.ranks import on_ranks
from tests.simulated import batches, f1_atpase

BOX, PIXEL = 32, 6.4
SETTINGS = EngineSettings(
    starts=2, settle_images=150, search_shells=8, in_plane_angles=24, direction_order=2, samples=16, update_images=50,
    images_per_shell=100,
)  # fmt: skip
PER_IMAGE = ("rotation", "shift_angstrom", "pose_weight", "effective_sample_size", "log_evidence")
# of the largest value: single precision adds up in another order; measured 5e-7 after one step
ROUNDING = 1e-5
ONE_DRAW = 0.05  # what a draw of an image or two, by rounding others, may move the map: one image of a hundred


def with_two_groups(batch):
    """Every third particle of another optics group, and fainter, so that amplitudes are followed too."""
    (group,) = batch.table.optics_groups
    index = (np.arange(len(batch)) % 3 == 0).astype(np.int32)
    table = replace(batch.table, optics_groups=(group, replace(group, name="other")), optics_group_index=index)
    images = batch.images * np.where(index, np.float32(0.6), np.float32(1.0))[:, None, None]
    return ParticleBatch(images, table, batch.identities)


@pytest.fixture(scope="module")
def particles():
    return [with_two_groups(b) for b, _ in batches(f1_atpase(BOX, PIXEL), PIXEL, 1300, 4.0, seed=3)]


def engine(collective=None, backend=None):
    backend = backend or CpuBackend(1)
    if collective is None:
        return Engine(SETTINGS, BOX, PIXEL, backend, 1, keep=True)
    return Engine(SETTINGS, BOX, PIXEL, backend, 1, keep=True, collective=collective)


@pytest.fixture(scope="module")
def history(particles):
    """One process alone: its state and what it kept, after 200 images and after 1200."""
    alone = engine()
    kept, found = [], {}
    for number, batch in enumerate(particles[:12], start=1):
        kept.append(alone.fold(batch).kept)
        if number in (2, 12):
            found[alone.status.stage] = (alone.state(), joined(kept[-2:]))
    assert set(found) == {"searching", "refining"}
    return found


def together(size, work):
    """Run ``work(engine)`` on so many ranks, on one without any exchange."""
    if size == 1:
        return [work(engine())]

    def on_rank(link):
        backend = CpuBackend(1)
        return work(engine(RankCollective(link, backend), backend))

    return on_ranks(size, on_rank)


def copied(state):
    """An engine keeps the arrays it is given."""
    return EngineState({name: array.copy() for name, array in state.arrays.items()}, state.scalars)


def assert_same_images(found, expected):
    for name in PER_IMAGE:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), 1e-4, 1e-5, err_msg=name)
    assert (found.inlier is None) == (expected.inlier is None)
    if found.inlier is not None:
        np.testing.assert_allclose(found.inlier, expected.inlier, atol=1e-4)
    assert found.evaluations == pytest.approx(expected.evaluations, rel=0.02)


def assert_same_kept(found, expected):
    for part in ("images", "contribution"):
        for name, value in vars(getattr(expected, part)).items():
            np.testing.assert_allclose(getattr(getattr(found, part), name), value, 1e-4, 1e-5, err_msg=name)


def assert_close(found, expected):
    assert np.abs(found - expected).max() <= ROUNDING * np.abs(expected).max()


def assert_same_state(found, expected):
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        if "fsc" in name:
            np.testing.assert_allclose(found.arrays[name], array, atol=1e-4)
        elif array.size:
            assert_close(found.arrays[name], array)
    for name, value in expected.scalars.items():
        if name == "evidence":  # a list in JSON
            np.testing.assert_allclose(json.loads(found.scalars[name]), json.loads(value), 1e-4)
        elif isinstance(value, str):
            assert found.scalars[name] == value
        elif "second" not in name:  # how long it took
            assert found.scalars[name] == pytest.approx(value, rel=0.02, nan_ok=True), name


def of_half(batch, half):
    return batch.select(np.flatnonzero(batch.half == half))


SHAPES = {
    "a hundred": lambda batch: batch,
    "an odd number": lambda batch: batch.select(np.arange(7)),
    "one": lambda batch: batch.select(np.arange(1)),
    "two": lambda batch: batch.select(np.arange(2)),
    "half a only": lambda batch: of_half(batch, 0),
    "a single one of half a": lambda batch: batch.select(
        np.concatenate([np.flatnonzero(batch.half == 1)[:8], np.flatnonzero(batch.half == 0)[:1]])
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stage", ["searching", "refining"])
def test_a_step_of_several_ranks_is_the_step_of_one(history, particles, stage, shape):
    state, _ = history[stage]
    batch = SHAPES[shape](particles[12])

    def work(engine):
        engine.restore(copied(state))
        result = engine.fold(batch)
        return result, engine.snapshot(), engine.state()

    (alone,) = together(1, work)
    sizes = (2, 3) if shape != "a hundred" else (3,)
    for size in sizes:
        ranks = together(size, work)
        for found in ranks:
            assert_same_images(found[0], alone[0])
            assert_same_kept(found[0].kept, alone[0].kept)
            assert_close(found[1].volume, alone[1].volume)
            assert_same_state(found[2], alone[2])
            # all ranks go on from the same: not to rounding, to the bit
            np.testing.assert_array_equal(found[1].fsc, ranks[0][1].fsc)
            np.testing.assert_array_equal(
                found[2].arrays["start0_accumulator_a"], ranks[0][2].arrays["start0_accumulator_a"]
            )


@pytest.mark.parametrize("count", [180, 2])
@pytest.mark.parametrize("stage", ["searching", "refining"])
def test_a_revisit_of_several_ranks_is_the_revisit_of_one(history, stage, count):
    """Also of particles that another rank had inserted: what is taken out and what is put in are plain sums."""
    state, kept = history[stage]
    picked = kept.take(np.arange(count))
    search = np.arange(count) % 4 == 0

    def work(engine):
        engine.restore(copied(state))
        result = engine.revisit(picked, search)
        return result, engine.state()

    (alone,) = together(1, work)
    for found in together(3, work):
        assert_same_images(found[0], alone[0])
        assert_same_kept(found[0].kept, alone[0].kept)
        assert_same_state(found[1], alone[1])


def test_poses_that_a_symmetry_makes_equivalent_are_chosen_by_several_ranks_as_by_one(history, particles):
    """A threefold axis imposed on a map in refinement, and batches after it: new particles, and some visited again."""
    turn = Rotation.random(random_state=1).as_matrix()

    def find(*halves, at_least=0.0):
        return Orientation("C3", turn, np.zeros(3)), "believed"

    settings = replace(SETTINGS, symmetry="C3", settled_window_images=200)
    state, kept = history["refining"]
    imposed = Engine(settings, BOX, PIXEL, CpuBackend(1), 1, keep=True, find_symmetry=find)
    imposed.restore(copied(state))
    for batch in particles[9:12]:
        imposed.fold(batch)
    assert imposed.status.symmetry == "C3"
    assert imposed.status.fsc_kind == "gold_standard"
    imposed._go_on_with(imposed._leader, "is not what this is about")
    before = imposed.state()

    def work(engine):
        engine.restore(copied(before))
        results = engine.fold(particles[12]), engine.revisit(kept.take(np.arange(41)), np.zeros(41, bool))
        return *results, engine.state()

    (alone,) = together(1, work)
    name = f"start{imposed._leader}_symmetry_doubts_images"
    heard = alone[2].scalars[name] - before.scalars[name]
    assert heard == 100  # those visited again say nothing
    for found in together(3, work):
        for result, expected in zip(found[:2], alone[:2], strict=True):
            assert_same_images(result, expected)
            assert_same_kept(result.kept, expected.kept)
        assert_same_state(found[2], alone[2])


def test_from_a_random_start_each_step_is_that_of_one(particles):
    """Five steps from nothing, of sizes that do not divide, each from where one process alone was.

    From where they were themselves they may soon be elsewhere: at a random start a draw that rounding sends the other
    way is another map.
    """
    sizes = (100, 61, 1, 40, 99)
    batches = [b.select(np.arange(n)) for b, n in zip(particles, sizes, strict=False)]

    def follow(engine):
        steps = []
        for batch in batches:
            before = engine.state()
            steps.append((before, engine.fold(batch), engine.snapshot().volume))
        return steps

    (alone,) = together(1, follow)

    def work(engine):
        steps = []
        for number, batch in enumerate(batches):
            if number:
                engine.restore(copied(alone[number][0]))
            steps.append((engine.fold(batch), engine.snapshot()))
        return steps

    for size in (2, 3):
        for steps in together(size, work):
            for (found, snapshot), (_, expected, volume) in zip(steps, alone, strict=True):
                apart = np.abs(found.rotation - expected.rotation).max(axis=(1, 2)) > 1e-3
                assert np.count_nonzero(apart) <= 2
                assert np.abs(snapshot.volume - volume).max() <= ONE_DRAW * np.abs(volume).max()
            assert snapshot.status.particles_seen == sum(sizes)


def test_sums_and_not_shares_make_the_map(history, particles):
    """A rank by itself has another map: the test above could fail."""
    state, _ = history["searching"]

    def work(engine):
        engine.restore(copied(state))
        engine.fold(particles[12])
        return engine._starts[0]._map.halves._accumulators[0].grid

    (alone,) = together(1, work)
    first, second = together(2, work)
    assert_close(first + second, alone)
    assert np.abs(first - alone).max() > 100 * ROUNDING * np.abs(alone).max()
    assert np.abs(second).max() > 0.01 * np.abs(alone).max()


def test_a_batch_that_cannot_be_used_is_refused_by_all_and_all_go_on(history, particles):
    state, _ = history["searching"]
    bad = particles[12].select(np.arange(20))
    bad.images[3] = np.nan

    def work(engine):
        engine.restore(copied(state))
        with pytest.raises(NumericalError, match="not finite") as caught:
            engine.fold(bad)
        engine.fold(particles[11])
        return str(caught.value), engine.status.particles_seen

    assert len(set(together(3, work))) == 1
    assert together(2, work) == together(1, work) * 2


def test_a_state_goes_from_any_number_of_ranks_to_any_other(particles):
    def begin(engine):
        for batch in particles[:2]:
            engine.fold(batch)
        return engine.state()

    def go_on(state):
        def work(engine):
            engine.restore(copied(state))
            engine.fold(particles[2])
            return engine.state()

        return work

    for first, second in ((1, 3), (3, 1), (2, 3)):
        state = together(first, begin)[0]
        (expected,) = together(1, go_on(state))
        for found in together(second, go_on(state)):
            assert found.scalars["start0_done_particles_seen"] == 300
            assert found.scalars["start0_done_held"] == 300
            assert_close(found.arrays["start0_map_full"], expected.arrays["start0_map_full"])


def test_a_step_exchanges_a_few_times_whatever_the_batch(history, particles):
    """Between two solutions of the map: every exchange is a wait for the slowest rank."""
    state, kept = history["refining"]

    def on_rank(link):
        backend, exchanges = CpuBackend(1), []
        collective = RankCollective(link, backend)
        gather = link.gather
        link.gather = lambda arrays: exchanges.append(len(arrays)) or gather(arrays)
        one = Engine(replace(SETTINGS, update_images=10**6), BOX, PIXEL, backend, 1, keep=True, collective=collective)
        one.restore(copied(state))
        counts = []
        for batch in (particles[12], particles[12].select(np.arange(9))):
            one.fold(batch)
            counts.append(len(exchanges))
            exchanges.clear()
        starts = one.starts
        one.revisit(kept.take(np.arange(30)), np.ones(30, bool))
        return *(count / starts for count in counts), len(exchanges)

    # spectra, probed cells, what was found, residuals, what is kept; a visit also asks who was in the sums
    assert set(on_ranks(2, on_rank)) == {(5, 5, 6)}
