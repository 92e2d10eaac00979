"""A set that is over before its search has settled: visits carry it on, and it converges, or says that it has not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct import annealing
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.kept import joined
from streamrecon.reconstruct.results import EngineState
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.trajectory import Trajectory
from streamrecon.simulate.specimen import density_from_map
from tests.integration.test_revisits import FIXTURE, N_SYMMETRIC, put, sums_of
from tests.simulated import batches

BOX, PIXEL = 32, 64 * 3.54 / 32
PARTICLES, SNR = 500, 0.5
SETTINGS = EngineSettings(settle_images=800, images_per_shell=120, samples=24, search_shells=12)
BATCH = 100


def fresh():
    return Engine(SETTINGS, BOX, PIXEL, CpuBackend(2), 1, keep=True)


def stream(n, seed):
    return batches(density_from_map(FIXTURE, BOX, PIXEL), PIXEL, n, SNR, seed)


def within_15(run):
    return pose_errors(run.true, run.found, n_symmetric=N_SYMMETRIC).share_within(15.0)


def folded(engine, made):
    """Fold batches; return what is kept, the poses found and the true ones."""
    kept, found, true = [], [], []
    for batch, rotation in made:
        result = engine.fold(batch)
        kept.append(result.kept)
        found.append(result.rotation)
        true.append(rotation)
    return SimpleNamespace(engine=engine, kept=joined(kept), found=np.concatenate(found), true=np.concatenate(true))


def visit(run, first, last):
    """Visit kept particles in order, a batch at a time."""
    for start in range(first, last, BATCH):
        rows = np.arange(start, min(last, start + BATCH))
        result = run.engine.revisit(run.kept.take(rows), np.zeros(len(rows), bool))
        put(run.kept, result.kept, rows)
        run.found[rows] = result.rotation


@pytest.fixture(scope="module")
def one_pass():
    """The engine's state after the first pass over a small set, and what is kept."""
    run = folded(fresh(), stream(PARTICLES, 5))
    assert run.engine.status.stage == "searching"
    run.state = run.engine.state()
    return run


@pytest.fixture
def run(one_pass):
    """Another engine that goes on from there."""
    engine = fresh()
    # the engine goes on in the arrays that it is given
    engine.restore(EngineState({n: a.copy() for n, a in one_pass.state.arrays.items()}, one_pass.state.scalars))
    kept = one_pass.kept.take(np.arange(PARTICLES))
    return SimpleNamespace(engine=engine, kept=kept, found=one_pass.found.copy(), true=one_pass.true)


def test_visits_end_the_search_with_the_right_poses_and_count_each_particle_once(run):
    assert within_15(run) < 0.5
    sweeps, clocks = 0, [start._progress.annealer.progress for start in run.engine._starts.values()]
    while run.engine.status.fsc_kind != "gold_standard":
        visit(run, 0, PARTICLES)
        sweeps += 1
        assert sweeps <= 8
        if sweeps == 1:
            # both random starts have gone on
            assert run.engine.starts == 2
            now = [start._progress.annealer.progress for start in run.engine._starts.values()]
            assert all(b > a for a, b in zip(clocks, now, strict=True))
    status = run.engine.status
    assert (status.particles_seen, status.image_visits) == (PARTICLES, PARTICLES * (1 + sweeps))
    assert run.engine.starts == 1
    assert within_15(run) > 0.9
    visit(run, 0, PARTICLES)
    start = run.engine._starts[run.engine._leader]
    assert start._progress.done.held == PARTICLES


def test_while_searching_an_old_contribution_leaves_the_sums_and_what_is_in_them_fades(run):
    visit(run, 0, PARTICLES // 2)
    assert run.engine.status.stage == "searching"
    start = run.engine._starts[0]
    kept = run.kept.take(np.argsort(run.kept.half, kind="stable"))
    assert (kept.contribution.epoch == start._epoch).all()
    # for 250 visits, in batches of 100, 100 and 50, as for so many new images
    window = SETTINGS.search_window_images
    faded = start._map.halves.level - run.kept.contribution.level[-1]
    assert faded == pytest.approx(-sum(np.log(1 - n / window) for n in (100, 100, 50)))
    for held, again in zip(start._map.halves._accumulators, sums_of(run, kept), strict=True):
        grid = held.grid / held.gain
        edge = held.radius - (again.shape[2] - 1)
        middle = slice(edge, grid.shape[0] - edge)
        inside = grid[middle, middle, : again.shape[2]]
        assert np.abs(inside - again).max() < 1e-4 * np.abs(again).max()


def test_a_checkpoint_between_such_visits_goes_on_bit_for_bit(run):
    visit(run, 0, 200)
    resumed = fresh()
    resumed.restore(run.engine.state())
    twin = SimpleNamespace(
        engine=resumed, kept=run.kept.take(np.arange(PARTICLES)), found=run.found.copy(), true=run.true
    )
    for one in (run, twin):
        visit(one, 200, 500)
        assert one.engine.status.stage == "searching"
        assert one.engine.starts == 2
    assert np.array_equal(run.found, twin.found)
    assert np.array_equal(run.engine.snapshot().volume, resumed.snapshot().volume)
    mine, theirs = run.engine.state(), resumed.state()
    assert all(np.array_equal(array, theirs.arrays[name]) for name, array in mine.arrays.items())


def test_new_images_are_folded_as_ever_in_between(run):
    """They count as particles, and whether to settle is up to the annealing alone: they are in no map."""
    visit(run, 0, 100)
    (batch, _), *_ = stream(100, 77)
    before = run.engine.status
    run.engine.fold(batch)
    status = run.engine.status
    assert status.particles_seen == before.particles_seen + 100 == PARTICLES + 100
    assert status.image_visits == before.image_visits + 100
    assert status.search_progress > before.search_progress


@pytest.mark.parametrize("noise", [True, False], ids=["noise", "particles"])
def test_images_must_be_explained_by_the_half_that_they_are_not_in(run, monkeypatch, noise):
    """Sure of their poses are images of noise too, in the map that they made."""
    if noise:
        rng = np.random.default_rng(3)
        made = (
            (ParticleBatch(rng.normal(size=b.images.shape).astype(np.float32), b.table, b.identities), r)
            for b, r in stream(300, 5)
        )
        run = folded(fresh(), made)
    # everybody is said to be sure, and the schedule to be over
    monkeypatch.setattr(annealing, "_SETTLED_ENTROPY", np.inf)
    for start in run.engine._starts.values():
        start._progress.annealer.progress = 1.0
    visit(run, 0, 200)
    assert (run.engine.status.stage == "searching") == noise


def test_starts_that_visits_carry_on_are_compared_by_maps_that_the_images_are_not_in(run, monkeypatch):
    visit(run, 0, 100)
    engine = run.engine
    for start in engine._starts.values():
        start._progress.annealer.settled_at, start._progress.stages.name = 0, "settled"
        start._progress.done.image_visits = 2000
    engine._evidence = {0: 100.0, 1: 50.0}  # what they know by heart
    state = engine.state()
    for held_out, better in ((60.0, 1), (52.0, 0)):  # a tenth better, and not
        engine.restore(EngineState({n: a.copy() for n, a in state.arrays.items()}, state.scalars))
        with monkeypatch.context() as patched:
            patched.setattr(Trajectory, "evidence_held_out", lambda self, *_, h=held_out: (50.0, h)[self._seed[1]])
            engine.revisit(run.kept.take(np.arange(100)), np.zeros(100, bool))
        assert (engine.starts, engine._leader) == (1, better)


def test_what_is_held_out_leaves_everything_as_it_was(run):
    start = run.engine._starts[0]
    kept = run.kept.take(np.argsort(run.kept.half, kind="stable"))
    before, cube = run.engine.state(), start._poses.cubes[0].copy()
    held_out = start.evidence_held_out(kept, int((kept.half == 0).sum()))
    assert held_out > 0
    after = run.engine.state()
    assert all(np.array_equal(array, after.arrays[name]) for name, array in before.arrays.items())
    assert before.scalars == after.scalars
    assert np.array_equal(start._poses.cubes[0], cube)
    assert start._poses.cubes[1] is start._poses.cubes[0]
