import numpy as np
import pytest
from scipy.ndimage import fourier_shift

from streamrecon.geometry.rotation import random_rotations
from streamrecon.optics.ctf import ctf_coefficients, evaluate_ctf
from streamrecon.optics.group import OpticsGroup
from streamrecon.simulate import Projector

BOX, PIXEL = 32, 3.0


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """An asymmetric heap of blobs that fits well inside the box."""
    rng = np.random.default_rng(5)
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    blobs = [
        a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 4)
        for a, (cx, cy, cz) in zip(rng.uniform(0.5, 2, 12), rng.normal(0, 4, (12, 3)), strict=True)
    ]
    return np.sum(blobs, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def projector(volume: np.ndarray) -> Projector:
    return Projector(volume, PIXEL)


def transform(image: np.ndarray) -> np.ndarray:
    return np.fft.fft2(np.fft.ifftshift(image))


def test_without_rotation_it_is_the_sum_along_z(projector: Projector, volume: np.ndarray) -> None:
    image = projector.project(np.eye(3)[None], np.zeros((1, 2)))[0]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, volume.sum(axis=0), atol=2e-3 * volume.sum(axis=0).max())


def test_quarter_turns_are_array_turns(projector: Projector, volume: np.ndarray) -> None:
    """R maps image vectors to volume vectors: with R e_x = e_y, image x runs along volume y."""
    r = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)  # e_x -> e_y, e_y -> e_z, beam along x
    image = projector.project(r[None], np.zeros((1, 2)))[0]
    # image (row = image y = volume z, column = image x = volume y); summed along x
    expected = volume.sum(axis=2)
    np.testing.assert_allclose(image, expected, atol=2e-3 * expected.max())


def test_any_rotation_is_the_direct_fourier_sum(projector: Projector, volume: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    rotation, shift = random_rotations(rng, 4), rng.normal(0, 4, (4, 2))
    images = projector.project(rotation, shift)
    grid = np.arange(BOX) - BOX // 2
    for r, t, image in zip(rotation, shift, images, strict=True):
        k = np.array([(x, y) for x, y in rng.integers(-15, 16, (80, 2)) if x * x + y * y < 256])
        q = np.column_stack([k, np.zeros(len(k))]) @ r.T
        ex, ey, ez = np.exp(-2j * np.pi / BOX * q[:, :, None] * grid).transpose(1, 0, 2)
        expected = np.einsum("zyx,kz,ky,kx->k", volume, ez, ey, ex, optimize=True)
        expected = expected * np.exp(-2j * np.pi / (BOX * PIXEL) * k @ t)
        found = transform(image)[k[:, 1], k[:, 0]]
        assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)


def test_a_shift_moves_the_particle_that_way(projector: Projector) -> None:
    rotation = random_rotations(np.random.default_rng(2), 1)
    still = projector.project(rotation, np.zeros((1, 2)))[0]
    moved = projector.project(rotation, np.array([[3 * PIXEL, -2 * PIXEL]]))[0]
    np.testing.assert_allclose(moved, np.roll(still, (-2, 3), axis=(0, 1)), atol=1e-4 * still.max())
    half = projector.project(rotation, np.array([[0.5 * PIXEL, 0]]))[0]
    expected = np.fft.ifft2(fourier_shift(np.fft.fft2(still), (0, 0.5))).real
    np.testing.assert_allclose(half, expected, atol=1e-4 * still.max())


def test_ctf_and_envelope_multiply_the_transform(projector: Projector) -> None:
    rotation = random_rotations(np.random.default_rng(3), 1)
    group = OpticsGroup("g", 300, 2.7, 0.1, PIXEL, BOX)
    coefficients = ctf_coefficients(group, np.array([16000.0]), np.array([13000.0]), np.array([35.0]), np.array([20.0]))
    plain = transform(projector.project(rotation, np.zeros((1, 2)))[0])
    image = projector.project(rotation, np.zeros((1, 2)), coefficients, envelope_b_factor=80.0)[0]
    ky, kx = np.meshgrid(np.fft.fftfreq(BOX, PIXEL), np.fft.fftfreq(BOX, PIXEL), indexing="ij")
    ctf = evaluate_ctf(coefficients, kx.ravel(), ky.ravel()).reshape(BOX, BOX)
    expected = plain * ctf * np.exp(-80 / 4 * (kx**2 + ky**2))
    np.testing.assert_allclose(transform(image), expected, atol=2e-4 * abs(plain).max())
