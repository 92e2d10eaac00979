"""Accumulators, noise, annealing, and the map's solution, each against what it should be."""

import itertools

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cpu_kernels.cells import HISTOGRAM_BINS, HISTOGRAM_SCALE
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.accumulator import Accumulator
from streamrecon.reconstruct.annealing import (
    Annealer,
    balancing_temperature,
    clock_rate,
    log_ess_and_entropy,
    target_log_ess,
)
from streamrecon.reconstruct.mapping import MapSolver, map_box_for, resize_volume
from streamrecon.reconstruct.noise import NoiseModel
from tests.unit.compute.conftest import BOX, gaussian_volume
from tests.unit.compute.conftest import blobs as blobs  # the fixture itself


@pytest.fixture(scope="module")
def backend():
    return CpuBackend(2)


def test_forgetting_by_gain_is_online_em(backend, rng):
    """Growing gains must give the same average as b <- keep b + batch."""
    accumulator = Accumulator(backend, 2, 4)
    expected = np.zeros_like(accumulator.grid)
    for _ in range(60):
        batch = rng.random(accumulator.grid.shape, np.float32)
        accumulator.forget(0.8)
        accumulator.grid += batch * np.float32(accumulator.gain)
        expected = 0.8 * expected + batch
    np.testing.assert_allclose(accumulator.grid / accumulator.gain, expected, rtol=1e-4)
    assert accumulator.gain <= 1e3
    accumulator.forget(0.0)
    assert not accumulator.grid.any()
    assert accumulator.gain == 1.0


def test_growing_keeps_what_was_gathered(backend, rng):
    accumulator = Accumulator(backend, 2, 4)
    accumulator.grid[:] = rng.random(accumulator.grid.shape)
    old, radius = accumulator.grid.copy(), accumulator.radius
    accumulator.grow(7)
    edge = accumulator.radius - radius
    assert edge == 6
    middle = accumulator.grid[edge:-edge, edge:-edge, : radius + 1]
    assert np.array_equal(middle, old)
    assert np.isclose(accumulator.grid.sum(dtype=float), old.sum(dtype=float), rtol=1e-6)


def test_noise_follows_its_group_and_forgets(rng):
    noise = NoiseModel(2, 5)
    group = np.array([0, 1] * 50)
    spectrum = np.array([[1.0, 2, 3, 4, 5], [10, 20, 30, 40, 50]])
    for _ in range(100):
        power = spectrum[group] * rng.chisquare(20, (100, 1)) / 20
        noise.update(group, power, mask_fill=0.5)
    np.testing.assert_allclose(noise.variance, 2 * spectrum, rtol=0.05)
    np.testing.assert_allclose(noise.inverse(group)[1], 1 / noise.variance[1], rtol=1e-6)
    noise.add_groups(3)
    assert noise.is_new(2)
    assert not noise.is_new(1)


def histogram_of(values):
    """Bin log-likelihoods as the kernel does."""
    below = values.max(axis=1, keepdims=True) - values
    bins = np.minimum((HISTOGRAM_SCALE * np.sqrt(below)).astype(int), HISTOGRAM_BINS - 1)
    return np.stack([np.bincount(row, minlength=HISTOGRAM_BINS) for row in bins])


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_spread_from_histograms(rng, temperature):
    values = rng.normal(0, 12, (6, 40_000))
    p = np.exp((values - values.max(axis=1, keepdims=True)) / temperature)
    p /= p.sum(axis=1, keepdims=True)
    log_ess, entropy = log_ess_and_entropy(histogram_of(values), temperature)
    assert np.isclose(log_ess, np.log(1 / (p**2).sum(axis=1)).mean(), atol=0.05)
    assert np.isclose(entropy, -(p * np.log(p)).sum(axis=1).mean(), atol=0.05)


def test_balancing_temperature_hits_its_target(rng):
    histogram = histogram_of(rng.normal(0, 12, (6, 40_000)))
    for target in (1.0, 4.0, 8.0):
        t = balancing_temperature(histogram, target)
        assert abs(log_ess_and_entropy(histogram, t)[0] - target) < 0.02
    # nearly flat likelihoods need no tempering, and say so
    assert balancing_temperature(histogram_of(rng.normal(0, 0.5, (3, 40_000))), 6.0) < 1.0


def test_the_clock_runs_slower_on_noisier_images():
    assert clock_rate(8.0) == 1.0
    assert clock_rate(2.0) == 0.5
    assert clock_rate(0.01) == 0.1


def test_annealer_settles_on_sharp_posteriors_and_never_before_its_time(rng):
    annealer = Annealer(1000, 40_000)
    sharp = histogram_of(rng.normal(0, 60, (5, 40_000)))
    temperatures = []
    for seen in range(0, 1500, 100):
        temperatures.append(annealer.temperature(sharp, 100, seen))
        if annealer.settled:
            break
    assert annealer.settled_at == 900
    assert all(a > b for a, b in itertools.pairwise(temperatures))
    assert temperatures[-1] == 1.0
    assert annealer.temperature(sharp, 100, 5000) == 1.0
    assert target_log_ess(0.0, 40_000) == pytest.approx(np.log(400))
    assert target_log_ess(1.0, 40_000) == pytest.approx(np.log(3))


def test_known_poses_give_the_volume_back(backend, blobs):
    """Insert exact slices at 3,000 known poses; both halves, their FSC and the map must be the volume."""
    k_max, rng = 10, np.random.default_rng(0)
    volume = gaussian_volume(blobs)
    points = half_plane_points(k_max)
    cube = backend.cube(volume, 2, 2 * k_max + 2)
    geometry = ImageGeometry(BOX, 3.0, 12.0, 2.0)
    halves = (Accumulator(backend, 2, k_max), Accumulator(backend, 2, k_max))
    from streamrecon.compute.cpu_kernels import slices

    for half in halves:
        rotation = random_rotations(rng, 1500).astype(np.float32)
        real, imaginary = np.empty((2, 1500, len(points)), np.float32)
        slices.extract_slices(cube, 2, points.kx, points.ky, rotation, real, imaginary)
        noise = rng.normal(0, 3, (2, 1500, len(points))).astype(np.float32)
        weighed = np.stack([2 * (real + noise[0]), 2 * (imaginary + noise[1]), np.ones_like(real)])
        backend.insert(
            half.grid, 2, points, BOX, weighed, rotation[:, None], np.zeros((1500, 1, 2), np.float32),
            np.ones((1500, 1), np.float32), 1e-3, 1.0,
        )  # fmt: skip
    solved = MapSolver(backend, geometry).solve(halves, k_max, np.full(k_max + 1, 0.99))
    found = resize_volume(solved.volume, BOX)
    assert np.corrcoef(found.ravel(), volume.ravel())[0, 1] > 0.995
    # the scale is right, not only the shape
    assert np.isclose((found * volume).sum() / (volume**2).sum(), 1.0, atol=0.06)
    assert solved.fsc[1:6].min() > 0.99
    one = resize_volume(solved.half_a, BOX)
    assert np.isclose((one * volume).sum() / (volume**2).sum(), 1.0, atol=0.06)


def test_resizing_keeps_band_and_sum(blobs):
    volume = gaussian_volume(blobs)
    larger = resize_volume(volume, 48)
    assert np.isclose(larger.sum(), volume.sum(), rtol=1e-4)
    np.testing.assert_allclose(resize_volume(larger, BOX), volume, atol=2e-3 * volume.max())


@pytest.mark.parametrize(("k_max", "box", "expected"), [(8, 64, 20), (10, 64, 24), (26, 64, 60), (30, 64, 64)])
def test_map_boxes_are_even_and_factor_well(k_max, box, expected):
    assert map_box_for(k_max, box) == expected
