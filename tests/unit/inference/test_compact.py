"""Images kept in half precision: what comes back, and that a recalled image is the one that was prepared."""

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points, points_within
from streamrecon.fourier.polar import polar_grid
from streamrecon.inference.compact import encode
from streamrecon.inference.observation import ImageGeometry, Preparer

BOX = 48


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e7])
def test_what_half_precision_can_hold_comes_back_and_is_kept_the_same_again(rng, scale):
    real, imaginary = scale * rng.normal(size=(2, 5, 40)).astype(np.float32)
    once, *on_device = encode(CpuBackend(1), real, imaginary, np.arange(5))
    back = once.decode()
    assert np.array_equal(on_device, back)
    # 11 bits: half a unit in the last place
    assert np.abs(back[0] - real).max() <= 2.0**-11 * np.abs(real).max() * 1.01
    np.testing.assert_allclose(back[1], imaginary, rtol=2.0**-11, atol=2.0**-24 * scale * 10)
    twice, *_ = encode(CpuBackend(1), back[0], back[1], np.arange(5))
    assert twice.zero.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(twice.decode(), back)
    assert np.array_equal(once.decode(np.array([3, 7])), back[:, :, [3, 7]])


def test_an_empty_image_stays_empty():
    nothing, real, _ = encode(CpuBackend(1), *np.zeros((2, 1, 4), np.float32), np.zeros(1))
    assert not nothing.decode().any()
    assert not real.any()


def test_a_recalled_image_is_the_one_that_was_prepared(rng):
    """Points, CTF, rings and power of a kept image, by the way back from its half-plane points."""
    backend = CpuBackend(1)
    geometry = ImageGeometry(BOX, 3.0, 16.0, 3.0)
    preparer = Preparer(backend, geometry, polar_grid(8, 16.0 / BOX, 24))
    points, band = half_plane_points(9), half_plane_points(22)
    y, x = np.indices((BOX, BOX)) - BOX // 2
    blob = 4 * np.exp(-((x - 3) ** 2 + (y + 2) ** 2) / 30.0)
    images = (blob + rng.normal(size=(6, BOX, BOX))).astype(np.float32)
    coefficients = rng.normal(size=(6, 5)).astype(np.float32)
    step = np.full(6, geometry.frequency_step, np.float32)
    group = np.zeros(6, np.int32)
    plain = preparer.prepare(images, coefficients, step, group, points)
    kept = preparer.prepare(images, coefficients, step, group, points, band)
    again = preparer.recall(kept.compact, coefficients, step, group, points, band)
    assert np.array_equal(again.real, kept.real)
    assert np.array_equal(again.imaginary, kept.imaginary)
    np.testing.assert_allclose(again.ctf, kept.ctf, atol=1e-6)
    np.testing.assert_allclose(again.ring_ctf, kept.ring_ctf, atol=1e-6)
    top = np.abs(plain.real).max()
    assert np.abs(kept.real - plain.real).max() < 1e-3 * top
    # rings need a margin beyond their own frequency, which the band has: only its corners are missing
    assert np.abs(again.rings - plain.rings).max() < 0.01 * np.abs(plain.rings).max()
    np.testing.assert_allclose(again.power[:, 1:21], plain.power[:, 1:21], rtol=0.25)
    assert np.isclose(again.power[:, 5:20].mean(), plain.power[:, 5:20].mean(), rtol=0.02)
    assert np.array_equal(points_within(band, 9)[1], [i for i, r in enumerate(band.kx**2 + band.ky**2) if r <= 81])
