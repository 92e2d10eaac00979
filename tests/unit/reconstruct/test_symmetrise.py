"""Symmetric sums against real-space averaging by splines, and against images inserted once an operator."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cpu_kernels.slices import extract_slices
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.asymmetric import asymmetric_cells
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.quadrature import pose_cells
from streamrecon.geometry.rotation import random_rotations
from streamrecon.geometry.symmetry import symmetry_operators
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.accumulator import Accumulator
from streamrecon.reconstruct.half_maps import PAD, HalfMaps
from streamrecon.reconstruct.symmetrise import symmetrised

BOX, SHELLS = 32, 12
BACKEND = CpuBackend(1)


def blobs(rng, n=9):
    """Blobs somewhere in the box, none of them at a symmetric place."""
    axis = np.arange(BOX) - BOX // 2
    volume = np.zeros((BOX,) * 3, np.float32)
    for at in rng.normal(0, 3.5, (n, 3)):
        x, y, z = (np.exp(-((axis - c) ** 2) / (2 * 1.8**2)) for c in at)
        volume += (z[:, None, None] * y[:, None] * x).astype(np.float32)
    return volume


def moved(volume, rotation, offset):
    """Return volume(rotation @ x + offset) around voxel box / 2, by splines."""
    order = np.array([2, 1, 0])
    matrix = rotation[np.ix_(order, order)]
    middle = np.full(3, BOX // 2)
    return affine_transform(volume, matrix, offset=middle - matrix @ middle + offset[order], order=3)


def sums_of(volume):
    """Return an accumulator that holds a map with weight 1 everywhere."""
    accumulator = Accumulator(BACKEND, PAD, SHELLS)
    cube = BACKEND.cube(volume, PAD, accumulator.radius)
    grid = np.zeros((*cube.shape[:3], 4), np.float32)
    grid[..., :2], grid[..., 2] = cube, 1.0
    # what is inserted goes to a point of x = 0 or to its mate, not to both
    grid[:, :, 0] *= 0.5
    accumulator.load(grid, 1.0, 0.0)
    return accumulator


def solved(accumulator):
    nothing = np.full(SHELLS + 2, 1e-6)
    return BACKEND.solve((accumulator.grid, accumulator.grid), PAD, SHELLS, nothing, 0.5, BOX)


@pytest.mark.parametrize("group", ["C3", "D2", "T"])
@pytest.mark.parametrize("published", [False, True])
def test_symmetric_sums_are_the_average_over_the_group(group, published, rng):
    volume = blobs(rng)
    at = Orientation(group, Rotation.random(random_state=4).as_matrix(), np.array([1.2, -0.7, 0.9]))
    found = solved(symmetrised(BACKEND, sums_of(volume), SHELLS, BOX, at, published=published))
    plain = solved(sums_of(volume))  # the same band
    expected = np.zeros_like(plain)
    for standard in symmetry_operators(group):
        turn = at.rotation @ standard if published else at.rotation @ standard @ at.rotation.T
        offset = at.center if published else at.center - turn @ at.center
        expected += moved(plain, turn, offset) / len(at.operators)
    z, y, x = np.indices(volume.shape) - BOX // 2
    ball = x**2 + y**2 + z**2 < 12**2
    assert np.corrcoef(found[ball], expected[ball])[0, 1] > 0.998
    np.testing.assert_allclose(found[ball], expected[ball], atol=0.06 * np.abs(expected).max())


def test_the_copies_weigh_as_much_as_images_inserted_once_an_operator(rng):
    """Numerator and weight, half by half: the route that costs an insertion for every operator."""
    at = Orientation("D3", Rotation.random(random_state=7).as_matrix())
    points = half_plane_points(SHELLS)
    n = 400
    rotation = random_rotations(rng, n).astype(np.float32)
    weighed = np.zeros((3, n, len(points)), np.float32)
    weighed[0], weighed[2] = 1.0, 1.0

    def insert(rotations):
        halves = HalfMaps(BACKEND, ImageGeometry(BOX, 3.0, 12.0, 2.0), SHELLS)
        count = len(rotations)
        poses = PoseSamples(
            rotations[:, None], np.zeros((count, 1, 2), np.float32), np.ones((count, 1), np.float32),
            np.zeros(count, np.float32), np.ones(count, np.float32), np.zeros(count, np.int32), 0,
        )  # fmt: skip
        halves.insert(count, poses, np.ascontiguousarray(weighed[:, :1].repeat(count, axis=1)), points, 1e-9)
        return halves._accumulators[0]

    every = np.concatenate([(s @ rotation).astype(np.float32) for s in at.operators])
    explicit = insert(every)
    copied = symmetrised(BACKEND, insert(rotation), SHELLS, BOX, at, published=False)
    first, second = (BACKEND.shell_weights(a.grid, PAD, SHELLS) for a in (explicit, copied))
    np.testing.assert_allclose(first[2:], second[2:], rtol=0.03)
    one, two = solved(explicit), solved(copied)
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.99


def test_poses_are_published_as_the_map_is(rng):
    """A projection of the own map at a pose is that of the published map at the published pose."""
    volume = blobs(rng)
    at = Orientation("D2", Rotation.random(random_state=1).as_matrix(), np.array([1.5, 0.4, -2.0]))
    published = moved(volume, at.rotation, at.center)
    rotation, shift = random_rotations(rng, 5), rng.normal(0, 1, (5, 2))
    new_rotation, new_shift = at.publish(rotation, 2.0 * shift, unit=2.0)
    points = half_plane_points(8)
    for i in range(5):
        slices = []
        for map_, r, t in ((volume, rotation[i], shift[i]), (published, new_rotation[i], new_shift[i] / 2.0)):
            out = np.empty((2, 1, len(points)), np.float32)
            cube = BACKEND.cube(map_.astype(np.float32), PAD, PAD * 10 + 2)
            extract_slices(cube, PAD, points.kx, points.ky, r[None].astype(np.float32), out[0], out[1])
            phase = np.exp(-2j * np.pi / BOX * (points.kx * t[0] + points.ky * t[1]))
            slices.append((out[0, 0] + 1j * out[1, 0]) * phase)
        difference = np.linalg.norm(slices[0] - slices[1]) / np.linalg.norm(slices[0])
        assert difference < 0.05


@pytest.mark.parametrize("group", ["C1", "C2", "C5", "D2", "T", "O", "I"])
def test_every_direction_has_an_equivalent_one_that_is_searched(group):
    cells = pose_cells(4, 8, 2.0, 1.0)
    at = Orientation(group, Rotation.random(random_state=2).as_matrix())
    kept = asymmetric_cells(cells, at.operators)
    order = len(at.operators)
    pixel = cells.directions[:, :, 2]
    left = kept.directions[:, :, 2]
    equivalent = np.einsum("gij,nj->gni", at.operators, pixel)
    nearest = (equivalent @ left.T).max(axis=(0, 2))
    # no farther than about a pixel from one that is kept
    assert np.rad2deg(np.arccos(np.clip(nearest.min(), -1, 1))) < 12.0
    assert len(kept.directions) < len(cells.directions) * (1.0 if order == 1 else 0.9) + 1
    assert kept.share == pytest.approx(len(kept.directions) / len(cells.directions))
    assert kept.rotation_half_width == pytest.approx(cells.rotation_half_width)
    if order >= 4:
        assert kept.share < 0.6
