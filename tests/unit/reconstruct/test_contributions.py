"""What goes into the sums comes out of them again, whatever happened in between."""

from dataclasses import replace

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.polar import polar_grid
from streamrecon.geometry.rotation import angular_distance_degrees, random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry, Preparer
from streamrecon.reconstruct import contributions
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.kept import KeptLayout, contribution_of, joined

BOX, BAND, K = 32, 13, 8
LAYOUT = KeptLayout(BAND, K)
GEOMETRY = ImageGeometry(BOX, 4.0, 11.0, 2.0)


@pytest.fixture
def backend():
    return CpuBackend(2)


def posteriors(rng, n):
    weight = rng.exponential(size=(n, K)).astype(np.float32) ** 6
    weight /= weight.sum(axis=1, keepdims=True)
    return PoseSamples(
        rotation=random_rotations(rng, n * K).reshape(n, K, 3, 3).astype(np.float32),
        shift=rng.normal(size=(n, K, 2)).astype(np.float32),
        weight=weight,
        log_evidence=np.zeros(n, np.float32),
        effective_sample_size=np.ones(n, np.float32),
        best=weight.argmax(axis=1).astype(np.int32),
        evaluations=0,
    )


class Sums:
    """Two half maps' sums, fed as a trajectory feeds them."""

    def __init__(self, backend):
        self.backend = backend
        self.halves = HalfMaps(backend, GEOMETRY, 6)
        self.preparer = Preparer(backend, GEOMETRY, polar_grid(5, 11.0 / BOX, 24))

    @property
    def grids(self):
        return [a.grid / a.gain for a in self.halves._accumulators]

    def insert(self, rng, n, n_a, k_max, *, amplitude=1.0, b_factor=0.0, epoch=0):
        points = half_plane_points(k_max)
        images = rng.normal(size=(n, BOX, BOX)).astype(np.float32)
        coefficients = rng.normal(size=(n, 5)).astype(np.float32)
        step = np.full(n, GEOMETRY.frequency_step, np.float32)
        observed = self.preparer.prepare(
            images, coefficients, step, np.zeros(n, np.int32), points, half_plane_points(BAND)
        )
        s2 = (points.kx**2 + points.ky**2) * GEOMETRY.frequency_step**2
        envelope = (amplitude * np.exp(-b_factor * s2 / 4)).astype(np.float32)
        observed = replace(observed, ctf=observed.ctf * envelope)
        noise = rng.uniform(0.5, 2.0, (n, BOX // 2 + 1)).astype(np.float32)
        inlier = rng.uniform(0.2, 1.0, n).astype(np.float32)
        weighed = self.backend.weigh(observed.real, observed.imaginary, observed.ctf, points.shell, noise)
        contribution = contributions.insert(
            self.halves, self.backend, posteriors(rng, n), weighed, inlier, noise, points, n_a, 1e-3, LAYOUT,
            (np.full(n, amplitude, np.float32), np.full(n, b_factor, np.float32)), epoch, 0,
        )  # fmt: skip
        return contributions.kept_of(observed.compact, coefficients, step, observed.group, n_a, contribution)

    def remove(self, kept, epoch=0):
        order = np.argsort(kept.half, kind="stable")
        sorted_kept = kept.take(order)
        n_a = int(np.count_nonzero(kept.half == 0))
        return contributions.remove(self.halves, self.backend, sorted_kept, n_a, LAYOUT, epoch).sum()


def test_a_contribution_is_taken_out_to_rounding(backend, rng):
    """Two batches of other bands, amplitudes and envelopes; the first leaves, and the sums are the second's alone."""
    both, alone = Sums(backend), Sums(backend)
    first = both.insert(rng, 30, 14, 8, amplitude=0.7, b_factor=120.0)
    state = rng.bit_generator.state
    both.insert(rng, 20, 11, 11)
    rng.bit_generator.state = state
    alone.insert(rng, 20, 11, 11)
    before = [np.abs(g).max() for g in both.grids]
    assert both.remove(first) == 30
    for found, expected, size in zip(both.grids, alone.grids, before, strict=True):
        assert np.abs(found - expected).max() < 3e-6 * size
        assert np.abs(expected).max() > 0.1 * size


def test_part_of_a_batch_leaves_and_comes_back(backend, rng):
    """A revisit that finds the same pose again leaves the sums as they were."""
    sums = Sums(backend)
    kept = sums.insert(rng, 30, 14, 8)
    before = [g.copy() for g in sums.grids]
    rows = np.array([3, 29, 17, 8])
    assert sums.remove(kept.take(rows)) == 4
    gone = [g.copy() for g in sums.grids]
    part = kept.take(np.array([3, 8, 17, 29]))  # sorted: half a first
    points = half_plane_points(8)
    from streamrecon.fourier.points import points_within

    real, imaginary = part.images.decode(points_within(half_plane_points(BAND), 8)[1])
    ctf = backend.ctf(part.ctf_coefficients, points.kx, points.ky, part.frequency_step)
    weighed = backend.weigh(real, imaginary, ctf, points.shell, part.contribution.inverse_noise)
    sums.halves.insert(2, part.contribution.samples(), weighed, points, 1e-30)
    for found, expected, without in zip(sums.grids, before, gone, strict=True):
        assert np.abs(found - expected).max() < 3e-6 * np.abs(expected).max()
        assert np.abs(without - expected).max() > 1e-3 * np.abs(expected).max()


def test_what_was_forgotten_in_between_is_not_taken_out_again(backend, rng):
    """After forgetting to 0.3 (and a return to unit gain on the way) only 0.3 of it is there to leave."""
    sums = Sums(backend)
    kept = sums.insert(rng, 30, 14, 8)
    size = max(np.abs(g).max() for g in sums.grids)
    for keep in (0.6, 1e-3, 0.5):
        sums.halves.forget(keep)
        later = sums.insert(rng, 5, 2, 9)
        sums.remove(later)
    # the gain has gone beyond its limit once and back to 1
    assert sums.halves._accumulators[0].gain < 1e3
    assert sums.halves.level > np.log(3e3)
    there = max(np.abs(g).max() for g in sums.grids)
    assert there == pytest.approx(3e-4 * size, rel=0.05)
    assert sums.remove(kept) == 30
    assert max(np.abs(g).max() for g in sums.grids) < 1e-2 * there
    sums.halves.forget(0.0)
    assert sums.remove(kept, epoch=1) == 0  # of other sums
    assert not any(np.abs(g).any() for g in sums.grids)


def test_a_batch_of_particles_inserted_at_different_bands_leaves_whole(backend, rng):
    """The last shell of a band is cut by |k|: taken out with a wider band, corners of it would go that never came."""
    sums = Sums(backend)
    parts = [sums.insert(rng, 10, 5, k_max) for k_max in (7, 8, 11)]
    size = max(np.abs(g).max() for g in sums.grids)
    kept = joined(parts)
    assert kept.contribution.bands().tolist() == [7] * 10 + [8] * 10 + [11] * 10
    sums.remove(kept)
    assert max(np.abs(g).max() for g in sums.grids) < 3e-6 * size


def test_the_poses_that_are_kept_are_those_that_go_in(rng):
    samples = posteriors(rng, 12)
    noise = rng.uniform(1, 2, (12, 9)).astype(np.float32)
    kept = contribution_of(samples, 0.01, noise, LAYOUT, (np.ones(12, np.float32), np.zeros(12, np.float32)), 0.5, 3, 4)
    back = kept.samples()
    for i in range(12):
        chosen = np.flatnonzero(samples.weight[i] >= 0.01)
        chosen = chosen[np.argsort(-samples.weight[i, chosen])]
        n = len(chosen)
        assert np.array_equal(back.weight[i, :n], samples.weight[i, chosen])
        assert not back.weight[i, n:].any()
        assert angular_distance_degrees(back.rotation[i, :n], samples.rotation[i, chosen]).max() < 0.05
        np.testing.assert_allclose(back.rotation[i, :n], samples.rotation[i, chosen], atol=1e-6)
        assert np.array_equal(back.shift[i, :n], samples.shift[i, chosen])
    assert not kept.inverse_noise[:, 9:].any()
    two = joined([kept, kept])
    assert len(two) == 24
    assert np.array_equal(two.take(np.arange(12, 24)).quaternion, kept.quaternion)
    empty = replace(kept, weight=np.zeros_like(kept.weight))
    assert (contributions.modes_of(empty, CpuBackend(1)).weight.sum(axis=1) == 1).all()
