"""The polar search against brute force over the same grid."""

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cpu_kernels import slices
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.polar import polar_grid
from streamrecon.geometry.quadrature import pose_cells
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.observation import ImageGeometry, Preparer
from streamrecon.inference.search import GlobalSearch
from tests.unit.compute.conftest import BOX, gaussian_transform, gaussian_volume
from tests.unit.compute.conftest import blobs as blobs  # the fixture itself

RINGS = 8
PAD = 2


def images_of(blobs, rotation, shift, ctf_at):
    """Images of the blobs: analytic transform, CTF and shift, inverse FFT."""
    k = np.fft.fftfreq(BOX, 1 / BOX)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    plane = np.stack([kx, ky, np.zeros_like(kx)], axis=-1)
    out = []
    for i, (r, t) in enumerate(zip(rotation, shift, strict=True)):
        f = gaussian_transform(blobs, plane @ r.T) * ctf_at(i, kx, ky)
        f = f * np.exp(-2j * np.pi * (kx * t[0] + ky * t[1]) / BOX)
        out.append(np.fft.fftshift(np.fft.ifft2(f).real))
    return np.array(out, np.float32)


@pytest.fixture(scope="module")
def scene(request):
    """Four noisy images, searched; everything a brute-force sum needs."""
    backend = CpuBackend(2)
    blobs = request.getfixturevalue("blobs")
    rng = np.random.default_rng(3)
    rotation = random_rotations(rng, 4)
    shift = rng.normal(0, 1, (4, 2))
    coefficients = np.array([[a, a, 0, 0, 0.1] for a in (900.0, 1100.0, 1300.0, 1500.0)], np.float32)
    step = np.full(4, 1 / (BOX * 3.0), np.float32)

    def ctf_at(i, kx, ky):
        return np.sin(coefficients[i, 0] * (kx**2 + ky**2) * step[i] ** 2 + 0.1)

    images = images_of(blobs, rotation, shift, ctf_at)
    images += rng.normal(0, images.std() * 2, images.shape).astype(np.float32)
    geometry = ImageGeometry(BOX, 3.0, 12.0, 2.0)
    grid = polar_grid(RINGS, geometry.particle_radius / BOX, 24)
    cells = pose_cells(2, 24, 2.0, 2.0)
    cube = backend.cube(gaussian_volume(blobs), PAD, PAD * RINGS + 2)
    search = GlobalSearch(backend, grid, cells, BOX)
    target = search.slices_of(cube, PAD, RINGS)
    preparer = Preparer(backend, geometry, grid)
    observed = preparer.prepare(images, coefficients, step, np.zeros(4, np.int32), half_plane_points(RINGS))
    inverse_noise = (1 / observed.power.mean(axis=0, keepdims=True)).repeat(4, axis=0).astype(np.float32)
    found = search.search(target, observed.rings, observed.ring_ctf, inverse_noise)
    return backend, grid, cells, cube, search, observed, inverse_noise, found, images, geometry


@pytest.mark.parametrize(("rings", "tolerance"), [(RINGS, 0.02), (4, 0.03)])
def test_rings_are_the_exact_transform(scene, rings, tolerance):
    """The one-GEMM polar transform against a direct sum over the masked image's pixels.

    Eight rings lack only the image's Nyquist row; four are taken from a smaller, Fourier-cropped image.
    """
    backend, images, geometry = scene[0], scene[8], scene[9]
    grid = polar_grid(rings, geometry.particle_radius / BOX, 24)
    preparer = Preparer(backend, geometry, grid)
    flat = np.zeros((4, 5), np.float32)
    observed = preparer.prepare(images, flat, flat[:, 0], np.zeros(4, np.int32), half_plane_points(4))
    masked = (images * geometry.image_mask()).astype(float)
    axis = np.arange(BOX) - BOX // 2
    kx, ky = grid.kx.ravel().astype(float), grid.ky.ravel().astype(float)
    wave_x, wave_y = np.exp(-2j * np.pi * np.outer(axis, kx) / BOX), np.exp(-2j * np.pi * np.outer(axis, ky) / BOX)
    exact = np.einsum("nyx,yp,xp->np", masked, wave_y, wave_x)
    found = observed.rings[:, 0] + 1j * observed.rings[:, 1]
    assert np.sqrt((np.abs(found - exact) ** 2).mean()) < tolerance * np.sqrt((np.abs(exact) ** 2).mean())


def brute_force(scene, image):
    """Log-likelihood ratio of every cell of one image, (S, 2D, n_psi signed), slice by slice."""
    _, grid, cells, cube, _, observed, inverse_noise, *_ = scene
    psi = np.concatenate([grid.psi(), -grid.psi()])
    observation = (observed.rings[image, 0] + 1j * observed.rings[image, 1]).astype(complex)
    ctf = observed.ring_ctf[image].astype(float)
    weight = (grid.ring_weight * inverse_noise[image, 1 : RINGS + 1])[:, None].repeat(grid.n_half, 1).ravel()
    turn = np.zeros((len(psi), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(psi)
    turn[:, 1, 0], turn[:, 0, 1], turn[:, 2, 2] = np.sin(psi), -np.sin(psi), 1
    out = np.empty((len(cells.shifts), len(cells.directions), len(psi)))
    kx, ky = grid.kx.ravel(), grid.ky.ravel()
    for d, direction in enumerate(cells.directions):
        rotation = (direction @ turn).astype(np.float32)
        real, imaginary = np.empty((2, len(psi), kx.size), np.float32)
        slices.extract_slices(cube, PAD, kx, ky, rotation, real, imaginary)
        p = (real + 1j * imaginary).astype(complex) * ctf
        for s, t in enumerate(cells.shifts):
            moved = p * np.exp(-2j * np.pi * (kx * t[0] + ky * t[1]) / BOX)
            cross = 2 * (weight * observation.conj() * moved).real.sum(axis=1)
            out[s, d] = cross - (weight * np.abs(p) ** 2).sum(axis=1)
    return out


def searched(scene, image):
    """The same from the search's planes."""
    _, grid, cells, *_, found, _, _ = scene
    n_s, n_d, n_j = len(cells.shifts), cells.n_pairs, grid.n_psi // 2
    a, b, c, d = (p.reshape(n_j, -1, n_s, n_d)[:, image].astype(float) for p in found.planes)  # (J, S, D)
    power = found.power_term[image]
    upper = np.concatenate([a + b - c + d, a + b + c - d]) - power
    lower = np.concatenate([a - b + c + d, a - b - c - d]) - power
    return np.concatenate([upper, lower], axis=2).transpose(1, 2, 0)


@pytest.mark.parametrize("image", range(4))
def test_every_cell_agrees_with_brute_force(scene, image):
    exact, found = brute_force(scene, image), searched(scene, image)
    assert exact.shape == found.shape
    spread = exact.max() - exact.min()
    assert np.abs(found - exact).max() < 1e-3 * spread
    assert np.unravel_index(found.argmax(), found.shape) == np.unravel_index(exact.argmax(), exact.shape)
    assert np.isclose(scene[7].best[image], found.max(), rtol=1e-5)


def test_masses_histogram_and_entropy_describe_the_same_posterior(scene):
    backend, _, cells, *_, found, _, _ = scene
    temperature = 3.0
    mass, summary = backend.cell_masses(found.planes, found.power_term, len(cells.shifts), found.best, temperature)
    histogram = backend.cell_histogram(found.planes, found.power_term, len(cells.shifts), found.best)
    for image in range(4):
        value = searched(scene, image)
        p = np.exp((value - value.max()) / temperature)
        assert np.isclose(summary[image, 0], p.sum(), rtol=1e-3)
        assert np.isclose(summary[image, 1], p.sum() ** 2 / (p**2).sum(), rtol=1e-3)
        q = p / p.sum()
        assert np.isclose(summary[image, 2], -(q * np.log(np.maximum(q, 1e-300))).sum(), atol=1e-3)
        by_pair = p.reshape(len(cells.shifts), 2, cells.n_pairs, -1).sum(axis=(1, 3))
        np.testing.assert_allclose(mass[image].reshape(by_pair.shape), by_pair, rtol=2e-3, atol=1e-6)
        assert histogram[image].sum() == cells.n_cells


def test_draws_follow_the_posterior_and_know_their_density(scene):
    _backend, _, cells, _, search, *_, found, _, _ = scene
    rng = np.random.default_rng(0)
    n, k, temperature, defensive = 4, 4000, 3.0, 200
    random = (rng.random(n, np.float32), *rng.random((2, n, k, 4), np.float32))
    rotation, shift, density, _ = search.draw(found, temperature, defensive, random)
    assert np.abs(np.linalg.det(rotation.astype(float)) - 1).max() < 1e-5
    # every pose lies in a cell whose probability is the density it reports: the mean of 1/density
    # over draws estimates the total volume, which is one
    for image in range(n):
        value = searched(scene, image)
        p = np.exp((value - value.max()) / temperature)
        p = 0.95 * p / p.sum() + 0.05 / p.size
        assert np.isclose((1 / density[image]).mean(), 1.0, rtol=0.25)
        expected = (p * p).sum() * p.size  # mean density of a draw
        assert np.isclose(density[image].mean(), expected, rtol=0.15)
    assert np.abs(shift).max() <= np.abs(cells.shifts).max() + cells.shift_step / 2 + 1e-5
