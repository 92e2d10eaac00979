"""Maps as vectors: there and back, their length, and what a change of band keeps."""

import numpy as np
import pytest
import scipy.fft

from streamrecon.optimise.coordinates import BandCoordinates
from tests.unit.compute.conftest import blobs as blobs  # the fixture itself
from tests.unit.compute.conftest import gaussian_transform, gaussian_volume


@pytest.mark.parametrize(("k_max", "box"), [(3, 10), (5, 16), (5, 32)])
def test_a_map_inside_the_band_comes_back(rng, k_max, box):
    coordinates = BandCoordinates(k_max)
    vector = rng.normal(size=len(coordinates)).astype(np.float32)
    volume = scipy.fft.irfftn(coordinates.transform(vector, box), s=(box,) * 3)
    found = coordinates.vector(scipy.fft.rfftn(volume))
    np.testing.assert_allclose(found, vector, atol=2e-5)
    # the vector's length is the map's: Parseval
    assert np.isclose((vector.astype(float) ** 2).sum(), box**3 * (volume.astype(float) ** 2).sum(), rtol=1e-5)


def test_coefficients_are_those_of_the_closed_form(blobs):
    coordinates = BandCoordinates(5)
    vector = coordinates.vector(scipy.fft.rfftn(gaussian_volume(blobs)))
    exact = gaussian_transform(blobs, coordinates.frequencies.astype(float))
    found = (vector[1::2] + 1j * vector[2::2]) / np.sqrt(2)
    assert np.abs(found - exact).max() < 2e-3 * np.abs(exact).max()
    # how finely the map is sampled does not matter
    again = BandCoordinates(5).vector(scipy.fft.rfftn(np.pad(gaussian_volume(blobs), 0)))
    assert np.array_equal(again, vector)


def test_a_narrower_band_is_the_beginning_of_a_wider_one():
    wide, narrow = BandCoordinates(6), BandCoordinates(4)
    n = len(narrow)
    assert np.array_equal(wide.frequencies[: n // 2], narrow.frequencies)
    assert np.array_equal(wide.shell[:n], narrow.shell)
    assert (np.linalg.norm(wide.frequencies[n // 2 :], axis=1) > 4).all()


def test_every_coefficient_of_the_ball_is_there_once():
    frequencies = BandCoordinates(4).frequencies
    both = {tuple(k) for k in frequencies} | {tuple(-k) for k in frequencies}
    axis = range(-4, 5)
    ball = {(x, y, z) for x in axis for y in axis for z in axis if 0 < x * x + y * y + z * z <= 16}
    assert both == ball
    assert len(both) == 2 * len(frequencies)


def test_shell_means_and_grid_values(rng):
    coordinates = BandCoordinates(4)
    assert np.allclose(coordinates.shell_means(coordinates.shell.astype(float)), np.arange(5))
    radius = 10
    z, y, x = np.meshgrid(
        np.arange(-radius, radius + 1), np.arange(-radius, radius + 1), np.arange(radius + 1), indexing="ij"
    )
    found = coordinates.sampled((x + 100.0 * y + 10_000.0 * z) / 2, pad=2)
    k = coordinates.frequencies
    assert np.array_equal(found[1::2], found[2::2])
    np.testing.assert_allclose(found[1::2], k[:, 0] + 100.0 * k[:, 1] + 10_000.0 * k[:, 2], rtol=1e-6)
