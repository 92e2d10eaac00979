"""Slices, scores, residuals and insertion against analytic values and plain NumPy."""

import numpy as np
import pytest

from streamrecon.compute.cpu_kernels import slices
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.rotation import random_rotations
from tests.unit.compute.conftest import BOX, gaussian_transform, gaussian_volume

K_MAX = 10
PAD = 2


@pytest.fixture(scope="module")
def points():
    return half_plane_points(K_MAX)


@pytest.fixture(scope="module")
def cube(backend, blobs):
    return backend.cube(gaussian_volume(blobs), PAD, PAD * K_MAX + 2)


def exact_slices(blobs, points, rotation):
    k = np.stack([points.kx, points.ky, np.zeros_like(points.kx)], axis=-1)
    return np.stack([gaussian_transform(blobs, k @ r.T) for r in rotation])


def test_slices_of_a_volume_known_in_closed_form(backend, blobs, points, cube, rng):
    rotation = random_rotations(rng, 20).astype(np.float32)
    real, imaginary = np.empty((2, 20, len(points)), np.float32)
    slices.extract_slices(cube, PAD, points.kx, points.ky, rotation, real, imaginary)
    exact = exact_slices(blobs, points, rotation)
    # trilinear interpolation on a twice padded grid leaves replicas of a few percent at the rim of the box
    assert np.abs(real + 1j * imaginary - exact).max() < 5e-2 * np.abs(exact).max()
    correlation = np.vdot(exact, real + 1j * imaginary).real
    correlation /= np.linalg.norm(exact) * np.linalg.norm(real + 1j * imaginary)
    assert correlation > 0.9995


def test_projection_in_real_space(blobs, points, cube):
    """Looking along z, the slice is the transform of the sum over z."""
    volume = gaussian_volume(blobs)
    transform = np.fft.fft2(np.fft.ifftshift(volume.sum(axis=0)))
    expected = transform[points.ky.astype(int), points.kx.astype(int)]
    real, imaginary = np.empty((2, 1, len(points)), np.float32)
    slices.extract_slices(cube, PAD, points.kx, points.ky, np.eye(3, dtype=np.float32)[None], real, imaginary)
    assert np.abs(real[0] + 1j * imaginary[0] - expected).max() < 5e-2 * np.abs(expected).max()


def test_scores_against_the_formula(backend, blobs, points, cube, rng):
    n, k = 3, 4
    rotation = random_rotations(rng, n * k).reshape(n, k, 3, 3).astype(np.float32)
    shift = rng.normal(0, 2, (n, k, 2)).astype(np.float32)
    image = rng.normal(size=(2, n, len(points))).astype(np.float32) * 50
    ctf = rng.uniform(-1, 1, (n, len(points))).astype(np.float32)
    inverse_noise = rng.uniform(0.5, 2, (n, K_MAX + 1)).astype(np.float32) * 1e-2
    weighed = backend.weigh(image[0], image[1], ctf, points.shell, inverse_noise)
    found = backend.score(cube, PAD, points, BOX, weighed, rotation, shift)
    real, imaginary = np.empty((2, n * k, len(points)), np.float32)
    slices.extract_slices(cube, PAD, points.kx, points.ky, rotation.reshape(-1, 3, 3), real, imaginary)
    p = (real + 1j * imaginary).astype(complex).reshape(n, k, -1)
    kk = np.stack([points.kx, points.ky])
    phase = np.exp(-2j * np.pi * np.einsum("nkc,cp->nkp", shift.astype(float), kk) / BOX)
    observed = (image[0] + 1j * image[1]).astype(complex)[:, None]
    model = ctf[:, None] * phase * p
    w = inverse_noise[:, points.shell][:, None]
    expected = (w * (np.abs(observed) ** 2 - np.abs(observed - model) ** 2)).sum(axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def wide():
    """A band of more points than the kernels take at once, and a cube of noise for it."""
    points = half_plane_points(45)
    assert len(points) > 2 * slices.TILE_POINTS
    radius = PAD * points.k_max + 2
    shape = (2 * radius + 1, 2 * radius + 1, radius + 1)
    return points, np.random.default_rng(0).standard_normal((*shape, 2), np.float32)


def test_scores_over_several_tiles_of_points(backend, wide, rng):
    """A score is a sum over points: scoring the slice's own points by hand gives the same."""
    points, cube = wide
    n, k = 2, 3
    rotation = random_rotations(rng, n * k).reshape(n, k, 3, 3).astype(np.float32)
    weighed = rng.normal(size=(3, n, len(points))).astype(np.float32)
    found = backend.score(cube, PAD, points, 128, weighed, rotation, np.zeros((n, k, 2), np.float32))
    re, im = np.empty((2, n * k, len(points)), np.float32)
    slices.extract_slices(cube, PAD, points.kx, points.ky, rotation.reshape(-1, 3, 3), re, im)
    re, im = re.reshape(n, k, -1).astype(float), im.reshape(n, k, -1).astype(float)
    cross_re, cross_im, power = weighed.astype(float)[:, :, None]
    expected = (cross_re * re + cross_im * im - power * (re**2 + im**2)).sum(axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_insertion_of_several_tiles_is_the_adjoint_of_extraction(backend, wide, rng):
    points, cube = wide
    rotation = random_rotations(rng, 2).astype(np.float32)[:, None]
    re, im = np.empty((2, 2, len(points)), np.float32)
    slices.extract_slices(cube, PAD, points.kx, points.ky, rotation[:, 0], re, im)
    image = rng.normal(size=(2, 2, len(points))).astype(np.float32)
    weighed = np.stack([2 * image[0], 2 * image[1], np.ones_like(image[0])])
    accumulator = np.zeros((*cube.shape[:3], 4), np.float32)
    shift, weight = np.zeros((2, 1, 2), np.float32), np.ones((2, 1), np.float32)
    assert backend.insert(accumulator, PAD, points, 128, weighed, rotation, shift, weight, 1e-3, 1.0) == 2
    left = (re.astype(float) * image[0] + im.astype(float) * image[1]).sum()
    right = (cube.astype(float) * accumulator[..., :2]).sum()
    assert abs(left - right) < 1e-5 * np.linalg.norm(re) * np.linalg.norm(image[0])
    assert np.isclose(accumulator[..., 2].sum(dtype=float), 2 * len(points), rtol=1e-5)


def test_residual_power_against_the_formula(backend, points, cube, rng):
    n = 3
    rotation = random_rotations(rng, n).astype(np.float32)
    shift = rng.normal(0, 2, (n, 2)).astype(np.float32)
    image = rng.normal(size=(2, n, len(points))).astype(np.float32) * 50
    ctf = rng.uniform(-1, 1, (n, len(points))).astype(np.float32)
    found = backend.residual(cube, PAD, points, BOX, K_MAX + 1, (image[0], image[1], ctf), rotation, shift)
    real, imaginary = np.empty((2, n, len(points)), np.float32)
    slices.extract_slices(cube, PAD, points.kx, points.ky, rotation, real, imaginary)
    phase = np.exp(-2j * np.pi * (shift[:, :1] * points.kx + shift[:, 1:] * points.ky) / BOX)
    difference = np.abs(image[0] + 1j * image[1] - ctf * phase * (real + 1j * imaginary)) ** 2
    for s in range(1, K_MAX + 1):
        np.testing.assert_allclose(found[:, s], difference[:, points.shell == s].mean(axis=1), rtol=2e-3)


def test_insertion_is_the_adjoint_of_extraction(backend, points, rng):
    """<slices(V), image> = <V, insertion(image)>, to 1e-5."""
    n = 6
    radius = PAD * K_MAX + 2
    shape = (2 * radius + 1, 2 * radius + 1, radius + 1)
    volume = rng.normal(size=(*shape, 2)).astype(np.float32)
    rotation = random_rotations(rng, n).astype(np.float32)[:, None]
    real, imaginary = np.empty((2, n, len(points)), np.float32)
    slices.extract_slices(volume, PAD, points.kx, points.ky, rotation[:, 0], real, imaginary)
    image = rng.normal(size=(2, n, len(points))).astype(np.float32)
    weighed = np.stack([2 * image[0], 2 * image[1], np.ones_like(image[0])])  # cross holds a factor two
    accumulator = np.zeros((*shape, 4), np.float32)
    inserted = backend.insert(
        accumulator, PAD, points, BOX, weighed, rotation, np.zeros((n, 1, 2), np.float32),
        np.ones((n, 1), np.float32), 1e-3, 1.0,
    )  # fmt: skip
    assert inserted == n
    left = (real.astype(float) * image[0] + imaginary.astype(float) * image[1]).sum()
    right = (volume.astype(float) * accumulator[..., :2]).sum()
    scale = np.linalg.norm(real) * np.linalg.norm(image[0])
    assert abs(left - right) < 1e-5 * scale
    # a point's eight fractions add up to one
    assert np.isclose(accumulator[..., 2].sum(dtype=float), n * len(points), rtol=1e-5)


def test_insertion_undoes_the_shift_and_skips_light_poses(backend, points, rng):
    rotation = random_rotations(rng, 2).astype(np.float32)[None]
    shift = np.array([[[1.5, -2.0], [0.0, 0.0]]], np.float32)
    phase = np.exp(-2j * np.pi * (1.5 * points.kx - 2.0 * points.ky) / BOX)
    plain = rng.normal(size=(1, len(points))) + 1j * rng.normal(size=(1, len(points)))

    def insert(image, shifts, weight):
        weighed = np.stack([2 * image.real, 2 * image.imag, np.ones(image.shape)]).astype(np.float32)
        out = np.zeros((45, 45, 23, 4), np.float32)
        count = backend.insert(out, PAD, points, BOX, weighed, rotation, shifts, weight, 1e-3, 2.0)
        return out, count

    moved, count = insert(plain * phase, shift, np.array([[1.0, 1e-4]], np.float32))
    still, _ = insert(plain, np.zeros_like(shift), np.array([[1.0, 0.0]], np.float32))
    assert count == 1
    np.testing.assert_allclose(moved, still, atol=1e-4)
    assert np.isclose(still[..., 2].sum(dtype=float), 2.0 * len(points), rtol=1e-5)
