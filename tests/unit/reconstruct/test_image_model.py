"""What is known of optics groups goes into the CTF that the likelihood and the sums are given."""

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points
from streamrecon.inference.observation import ImageGeometry, Observations
from streamrecon.reconstruct.image_model import ImageModel

BOX, PIXEL, RINGS, RING_POINTS = 48, 4.0, 6, 8
AMPLITUDE, B_FACTOR = np.array([1.0, 0.8]), np.array([0.0, 200.0])


@pytest.fixture
def model(rng):
    """A model that has learnt a sharp group and a blurred, weaker one."""
    model = ImageModel(CpuBackend(1), ImageGeometry(BOX, PIXEL, 16.0, 3.0))
    model._envelope.add_groups(2)
    x = (np.arange(BOX // 2 + 1) / (BOX * PIXEL)) ** 2 / 4
    for _ in range(60):
        group = rng.integers(0, 2, 100)
        power = rng.gamma(4.0, 30.0, (100, len(x)))
        match = AMPLITUDE[group][:, None] * np.exp(-B_FACTOR[group][:, None] * x) * power
        model._envelope.update(group, match, power)
    return model


def observations(rng, points, group):
    n = len(group)
    return Observations(
        real=np.zeros((n, len(points)), np.float32),
        imaginary=np.zeros((n, len(points)), np.float32),
        ctf=rng.uniform(-1, 1, (n, len(points))).astype(np.float32),
        rings=np.zeros((n, 2, RINGS * RING_POINTS), np.float32),
        ring_ctf=rng.uniform(-1, 1, (n, RINGS * RING_POINTS)).astype(np.float32),
        power=np.ones((n, 5), np.float32),
        group=np.asarray(group, np.int32),
        mask_fill=0.5,
    )


def test_amplitude_and_blur_of_a_group_are_in_its_ctf(model, rng):
    """C(s) a exp(-B s^2 / 4), at the half-plane's points and on the rings."""
    points, group = half_plane_points(10), np.array([0, 1, 1])
    given = observations(rng, points, group)
    scaled = model.scaled(given, points, RINGS)
    amplitude, b_factor = model.amplitude(group)[:, None], model.b_factor(group)[:, None]
    np.testing.assert_allclose(b_factor[:, 0], B_FACTOR[group], atol=30.0)
    np.testing.assert_allclose(amplitude[1] / amplitude[0], 0.8, rtol=0.05)
    step = 1 / (BOX * PIXEL)
    s2 = (points.kx**2 + points.ky**2) * step**2
    ring_s2 = (np.repeat(np.arange(1, RINGS + 1), RING_POINTS) * step) ** 2
    np.testing.assert_allclose(scaled.ctf, given.ctf * amplitude * np.exp(-b_factor * s2 / 4), rtol=1e-5)
    np.testing.assert_allclose(scaled.ring_ctf, given.ring_ctf * amplitude * np.exp(-b_factor * ring_s2 / 4), rtol=1e-5)
    assert np.array_equal(given.real, scaled.real)


def test_one_group_alone_is_left_as_it_is(rng):
    model = ImageModel(CpuBackend(1), ImageGeometry(BOX, PIXEL, 16.0, 3.0))
    model._envelope.add_groups(1)
    points = half_plane_points(10)
    given = observations(rng, points, np.zeros(2, int))
    assert model.scaled(given, points, RINGS) is given
    assert not model.compares_groups
