"""Particles visited again: map and poses get better, junk and weak groups are told apart, nothing drifts."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points, points_within
from streamrecon.io import normalize_background
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.kept import joined
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.specimen import density_from_map
from tests.simulated import batches

pytestmark = pytest.mark.slow
BOX, PIXEL = 48, 64 * 3.54 / 48
N_SYMMETRIC = 4  # D2
FIXTURE = Path(__file__).parents[1] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"
JUNK = 0.2
WEAK = 0.7
PARTICLES, SWEEPS = 2600, 2


def put(store, new, rows):
    """Write records into others in place."""
    for f in fields(store):
        held, value = getattr(store, f.name), getattr(new, f.name)
        if isinstance(held, np.ndarray):
            held[rows] = value
        else:
            put(held, value, rows)


def make(truth):
    """Yield batches of two optics groups, the second weaker, a fifth of either noise alone; poses; who is noise."""
    rng = np.random.default_rng(11)
    for number, (batch, rotation) in enumerate(batches(truth, PIXEL, PARTICLES, 0.2, seed=5)):
        weak = number % 2 == 1
        images = normalize_background(batch.images, 0.4 * BOX)
        if weak:
            noise = normalize_background(rng.normal(size=images.shape).astype(np.float32), 0.4 * BOX)
            images = WEAK * images + np.sqrt(1 - WEAK**2) * noise
        junk = rng.random(len(images)) < JUNK
        images[junk] = normalize_background(rng.normal(size=(int(junk.sum()), BOX, BOX)).astype(np.float32), 0.4 * BOX)
        group = replace(batch.table.optics_groups[0], name="weak" if weak else "strong")
        table = replace(batch.table, optics_groups=(group,))
        yield ParticleBatch(images.astype(np.float32), table, batch.identities), rotation, junk


class Run:
    """One reconstruction, and what it was after each pass."""

    def __init__(self, truth):
        self.truth = truth
        self.engine = Engine(EngineSettings(starts=1, settle_images=1500), BOX, PIXEL, CpuBackend(2), 2, keep=True)
        kept, found, true, junk = [], [], [], []
        for batch, rotation, is_junk in make(truth):
            result = self.engine.fold(batch)
            kept.append(result.kept)
            found.append(result.rotation)
            true.append(rotation)
            junk.append(is_junk)
        self.kept, self.found = joined(kept), np.concatenate(found)
        self.true, self.junk = np.concatenate(true), np.concatenate(junk)
        self.inlier = np.ones(len(self.found), np.float32)
        self.passes = [self.measure()]
        for _ in range(SWEEPS):
            self.sweep()
            self.passes.append(self.measure())

    def sweep(self):
        n = len(self.found)
        for start in range(0, n, 100):
            rows = np.arange(start, min(n, start + 100))
            result = self.engine.revisit(self.kept.take(rows), rows % 5 == 0)
            put(self.kept, result.kept, rows)
            self.found[rows], self.inlier[rows] = result.rotation, result.inlier

    def measure(self):
        snapshot = self.engine.snapshot()
        aligned = align_volumes(self.truth, snapshot.volume, PIXEL)
        good = ~self.junk
        return (
            fsc_between(self.truth, aligned.volume, PIXEL).resolution_05_angstrom,
            pose_errors(self.true[good], self.found[good], n_symmetric=N_SYMMETRIC).median_degrees,
            snapshot,
        )


@pytest.fixture(scope="module")
def run():
    return Run(density_from_map(FIXTURE, BOX, PIXEL))


def test_revisits_improve_the_map_and_the_poses(run):
    (first_fsc, first_error, first), *_, (last_fsc, last_error, last) = run.passes
    assert last_error < 0.7 * first_error
    assert last_error < 6.5
    assert last_fsc < 0.9 * first_fsc
    assert last_fsc < 2.8 * PIXEL
    assert first.status.particles_seen == last.status.particles_seen == PARTICLES
    assert last.status.image_visits == (1 + SWEEPS) * PARTICLES
    assert last.status.stage == "refining"
    assert last.status.fsc_kind == "gold_standard"
    assert last.resolution_angstrom > 0.8 * last_fsc  # an honest figure


def test_noise_images_are_told_from_particles_and_the_share_is_reported(run):
    assert run.inlier[~run.junk].mean() > 0.9
    assert run.inlier[run.junk].mean() < 0.35
    share = 1 - run.junk.mean()
    snapshot = run.passes[-1][2]
    for group in snapshot.optics_groups:
        assert group.inlier_share == pytest.approx(share, abs=0.1)
    assert {g.name: g.particles for g in snapshot.optics_groups} == {"strong": 1300, "weak": 1300}
    assert snapshot.noise_variance.shape == (2, BOX // 2 + 1)


def test_the_weaker_group_is_found_to_be_weaker(run):
    strong, weak = (g.amplitude_scale for g in run.passes[-1][2].optics_groups)
    assert weak / strong == pytest.approx(WEAK, rel=0.05)


def test_the_band_follows_the_honest_fsc_and_the_poses_follow_the_band(run):
    """Finer boxes at a finer band: the plan of the last band against that of the first."""
    start = run.engine._starts[0]
    shells = [p[2].status.k_max for p in run.passes]
    assert shells == sorted(shells)
    assert shells[-1] >= shells[0] + 2
    coarse, fine = (start._poses._plan(half_plane_points(k), 1.0) for k in (10, 22))
    assert fine.rotation_half_widths[-1] <= coarse.rotation_half_widths[-1] / 2
    assert fine.shift_half_widths[-1] <= coarse.shift_half_widths[-1] / 2


def sums_of(run, kept):
    """Insert what is kept of particles into empty sums."""
    from streamrecon.reconstruct.half_maps import HalfMaps

    start = run.engine._starts[0]
    backend = CpuBackend(2)
    bands = kept.contribution.bands()
    rebuilt = HalfMaps(backend, start._geometry, int(run.kept.contribution.bands().max()))
    factor = np.exp(kept.contribution.level - start._map.halves.level)
    for k_max in np.unique(bands).tolist():
        rows = np.flatnonzero(bands == k_max)
        part, points = kept.take(rows), half_plane_points(k_max)
        real, imaginary = part.images.decode(points_within(half_plane_points(start._layout.band), k_max)[1])
        ctf = backend.ctf(part.ctf_coefficients, points.kx, points.ky, part.frequency_step)
        ctf *= part.contribution.amplitude[:, None]
        s2 = (points.kx**2 + points.ky**2) * part.frequency_step[:, None] ** 2
        ctf *= np.exp(-part.contribution.b_factor[:, None] * s2 / 4)
        weighed = backend.weigh(real, imaginary, ctf, points.shell, part.contribution.inverse_noise)
        n_a = int(np.count_nonzero(part.half == 0))
        rebuilt.insert(n_a, part.contribution.samples(factor[rows]), weighed, points, 1e-30)
    return [fresh.grid for fresh in rebuilt._accumulators]


def test_the_sums_hold_each_particle_once(run):
    """Insert what is kept into empty sums: the same grids, after thousands of removals, to rounding."""
    start = run.engine._starts[0]
    order = np.argsort(run.kept.half, kind="stable")
    kept = run.kept.take(order)
    assert (kept.contribution.epoch == start._epoch).all()
    assert len(np.unique(kept.contribution.bands())) > 1
    # one particle fewer, of those whose share is small: but not of what is taken for noise, which may have none at all
    amount, sure = kept.contribution.amplitude, np.flatnonzero(run.inlier[order] > 0.9)
    missing = sure[np.argsort(amount[sure])[len(sure) // 10]]
    fewer = sums_of(run, kept.take(np.delete(np.arange(len(amount)), missing)))
    rounding, particle = 0.0, 0.0
    for held, fresh, without in zip(start._map.halves._accumulators, sums_of(run, kept), fewer, strict=True):
        grid = held.grid / held.gain
        edge, size = held.radius - (fresh.shape[2] - 1), np.abs(fresh).max()
        middle = slice(edge, grid.shape[0] - edge)
        inside = grid[middle, middle, : fresh.shape[2]]
        rounding = max(rounding, np.abs(inside - fresh).max() / size)
        particle = max(particle, np.abs(without - fresh).max() / size)
        assert np.abs(grid).max() == np.abs(inside).max()
    # thousands of float32 additions and subtractions: how they round is not the same on every processor
    assert rounding < 1e-4
    assert particle > 10 * 1e-4


def test_a_checkpoint_between_visits_goes_on_bit_for_bit(run):
    resumed = Engine(run.engine.settings, BOX, PIXEL, CpuBackend(1), 2, keep=True)
    resumed.restore(run.engine.state())
    rows = np.arange(0, 300, 3)
    search = np.zeros(100, bool)
    first = run.engine.revisit(run.kept.take(rows), search)
    second = resumed.revisit(run.kept.take(rows), search)
    put(run.kept, first.kept, rows)
    assert np.array_equal(first.rotation, second.rotation)
    assert np.array_equal(run.engine.snapshot().volume, resumed.snapshot().volume)


def test_a_particle_thrown_far_off_finds_its_way_back(run):
    """Poses turned away at random: around them alone there is no way back, the search has one."""
    rng = np.random.default_rng(3)
    good = rng.permutation(np.flatnonzero(~run.junk & (run.inlier > 0.9)))[:100]
    kept = run.kept.take(good)
    lost = rng.normal(size=kept.contribution.quaternion.shape[::2]).astype(np.float32)
    lost /= np.linalg.norm(lost, axis=-1, keepdims=True)
    thrown = replace(
        kept,
        contribution=replace(
            kept.contribution, quaternion=np.repeat(lost[:, None], kept.contribution.weight.shape[1], axis=1)
        ),
    )
    state = run.engine.state()
    near = []
    for search in (False, True):
        run.engine.restore(state)
        found = run.found.copy()
        found[good] = run.engine.revisit(thrown, np.full(100, search)).rotation
        # all poses fix the frame, those of the hundred are counted
        aligned = pose_errors(run.true, found, n_symmetric=N_SYMMETRIC)
        near.append(float((aligned.error_degrees[good] < 15.0).mean()))
    run.engine.restore(state)
    before = float((pose_errors(run.true, run.found, n_symmetric=N_SYMMETRIC).error_degrees[good] < 15.0).mean())
    assert near[1] > 0.85 * before
    assert near[0] < 0.4 * before
