"""Priors of the map, each on a case whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.shells import shell_index_rfft
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct import priors
from streamrecon.reconstruct.accumulator import Accumulator
from streamrecon.reconstruct.mapping import MapSolver, PriorChoice

BOX = 12


@pytest.fixture
def backend():
    return CpuBackend(1)


def test_the_exponential_prior_is_a_soft_threshold_where_all_frequencies_weigh_the_same(backend, rng):
    """sum_k c |V - V^|^2 = c N^3 sum_x (v - v^)^2: the answer is max(0, v^ - rate / (2 c N^3))."""
    volume = rng.normal(0.3, 1.0, (BOX,) * 3).astype(np.float32)
    c, rate = 2.5e-4, 0.4
    threshold = rate / (2 * c * BOX**3)
    assert 0.1 < threshold < 1
    found = priors.constrained(backend, volume, np.full(12, c), rate)
    np.testing.assert_allclose(found, np.maximum(volume - threshold, 0), atol=2e-4)
    both = priors.constrained(backend, volume, np.full(12, c), rate, non_negative=False)
    np.testing.assert_allclose(both, np.sign(volume) * np.maximum(np.abs(volume) - threshold, 0), atol=2e-4)


def test_without_a_rate_it_is_the_nearest_map_without_negative_density(backend, rng):
    """Against projected gradient steps, a slow route that cannot be wrong, with weights that fall by shell."""
    volume = rng.normal(0.2, 1.0, (BOX,) * 3).astype(np.float32)
    curvature = 1.0 / (1.0 + np.arange(13.0))
    found = priors.constrained(backend, volume, curvature, 0.0)
    assert found.min() >= 0
    weight = curvature[shell_index_rfft(BOX)]
    weight[0, 0, 0] = curvature[1]
    v = np.maximum(volume, 0).astype(float)
    target = np.fft.rfftn(volume)
    for _ in range(4000):
        v = np.maximum(v - 1.8 * np.fft.irfftn(weight * (np.fft.rfftn(v) - target), s=(BOX,) * 3, axes=(0, 1, 2)), 0)
    assert np.abs(found - v).max() < 1e-4

    def cost(x):
        full = np.fft.fftn(x - volume)
        k = np.rint(np.linalg.norm(np.meshgrid(*[np.fft.fftfreq(BOX, 1 / BOX)] * 3, indexing="ij"), axis=0)).astype(int)
        w = curvature[k]
        w[0, 0, 0] = curvature[1]
        return (w * np.abs(full) ** 2).sum()

    assert cost(found) < 1.002 * cost(v)
    assert cost(found) < 0.98 * cost(np.maximum(volume, 0))


def test_the_car_prior_is_that_of_26_neighbours_solved_by_brute_force(rng):
    """Transform of the neighbours' mean against the dense matrix, and the MAP estimate against a linear solution."""
    n = 6
    index = np.arange(n**3).reshape((n,) * 3)
    mean = np.zeros((n**3, n**3))
    for dz in (-1, 0, 1):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dz, dy, dx) != (0, 0, 0):
                    mean[index.ravel(), np.roll(index, (dz, dy, dx), (0, 1, 2)).ravel()] += 1 / 26
    data = rng.normal(size=n**3)
    tau, noise = 3.0, 0.5
    dense = np.linalg.solve(np.eye(n**3) / noise + tau * (np.eye(n**3) - mean), data / noise)
    w = priors.neighbour_transform(n)
    fourier = np.fft.rfftn(data.reshape((n,) * 3)) / noise / (1 / noise + tau * (1 - w))
    np.testing.assert_allclose(np.fft.irfftn(fourier, s=(n,) * 3, axes=(0, 1, 2)).ravel(), dense, atol=1e-10)


def test_the_strength_of_the_car_prior_is_that_of_the_map(rng):
    """A map drawn from the prior with a known strength gives that strength back, by shell."""
    box, tau = 24, 0.05
    roughness = 1.0 - priors.neighbour_transform(box)
    roughness[0, 0, 0] = 1.0
    white = np.fft.rfftn(rng.normal(size=(box,) * 3)) / box**1.5
    power = np.abs(white / np.sqrt(tau * roughness)) ** 2
    found = priors.car_regulariser(power, box, 14)
    shells = shell_index_rfft(box)
    for s in range(1, 12):
        assert found[s] == pytest.approx(tau * roughness[shells == s].mean(), rel=0.1)
    assert found[12] == found[11] == found[13]
    assert (np.diff(found[:12]) > 0).all()  # finer detail is rougher


def test_solvent_is_flattened_and_the_particle_left_alone(rng):
    axis = np.arange(32) - 16
    r = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    volume = (r < 6) * 1.0 + rng.normal(0, 0.15, r.shape)
    mask = priors.solvent_mask(volume, 3.0)
    assert (mask[r < 6] == 1).all()
    assert mask[r > 14].max() == 0
    assert mask.dtype == np.float32


def sums(backend, rng, truth, noise):
    """Two halves' accumulators of a map that was seen equally well from everywhere."""
    k_max, pad = 5, 2
    halves = []
    cube = backend.cube(truth, pad, pad * k_max + 2)
    for _ in range(2):
        half = Accumulator(backend, pad, k_max)
        half.grid[..., 2] = 1.0 / noise**2
        half.grid[..., :2] = (cube + rng.normal(0, noise, cube.shape)) / noise**2
        halves.append(half)
    return tuple(halves), k_max


@pytest.mark.parametrize("kind", ["fsc", "sparse", "car"])
def test_every_prior_brings_a_noisy_map_nearer_to_the_truth(backend, rng, kind):
    """A few compact blobs in an empty box: sparse and smooth; noise stronger than the signal at the last shells."""
    box = 16
    axis = np.arange(box) - 8
    truth = np.zeros((box,) * 3, np.float32)
    for z, y, x in ((0, 0, 0), (3, -2, 1), (-2, 3, -3)):
        r2 = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis[None, None, :] - x) ** 2
        truth += np.exp(-r2 / 3.0)
    halves, k_max = sums(backend, rng, truth, 60.0)
    geometry = ImageGeometry(box, 4.0, 7.0, 1.0)

    def error(solver, fsc, latest=None):
        solved = solver.solve(halves, k_max, fsc, latest)
        # within the band: beyond it only the sparse map has anything
        difference = np.fft.rfftn(solved.volume - low) * (shell_index_rfft(box) <= k_max)
        return np.square(np.fft.irfftn(difference, s=(box,) * 3, axes=(0, 1, 2))).sum(), solved

    low = MapSolver(backend, geometry).solve(*sums(backend, rng, truth, 1e-3), np.full(6, 0.995)).volume
    plain, first = error(MapSolver(backend, geometry), np.full(6, 0.995))
    found, solved = error(MapSolver(backend, geometry, PriorChoice(kind)), first.fsc, first)
    assert found < 0.6 * plain
    assert (solved.volume.min() >= 0) == (kind == "sparse")
    positive = MapSolver(backend, geometry, PriorChoice(kind, non_negative=True, solvent_flattening=True))
    both, solved = error(positive, first.fsc, first)
    assert both < 1.02 * found
    assert solved.volume.min() >= 0


def test_the_car_prior_does_not_shrink_a_map_to_nothing(backend, rng):
    """Its strength follows the latest map's energy: from a map that is a thousandth of what it should be, unchecked,
    the next would be smaller still.
    """
    box = 16
    axis = np.arange(box) - 8
    r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    halves, k_max = sums(backend, rng, np.exp(-r2 / 3.0).astype(np.float32), 60.0)
    geometry, fsc = ImageGeometry(box, 4.0, 7.0, 1.0), np.full(6, 0.9)
    expected = MapSolver(backend, geometry).solve(halves, k_max, fsc)
    solver = MapSolver(backend, geometry, PriorChoice("car"))
    small = replace(expected, volume=expected.volume / 1000, half_a=expected.half_a / 1000)
    found = solver.solve(halves, k_max, fsc, small)
    assert np.std(found.volume) > 0.99 * np.std(expected.volume)
    again = solver.solve(halves, k_max, fsc, found)
    assert np.std(again.volume) > 0.99 * np.std(expected.volume)
