"""Poses that a symmetry makes equivalent: the same image of a symmetric map, told apart by one without it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.collective import ALONE, Share
from streamrecon.reconstruct.half_maps import PAD, HalfMaps
from streamrecon.reconstruct.relaxation import drawn, equivalent_poses, gathered, relaxed
from streamrecon.reconstruct.symmetrise import symmetrised

BOX, SHELLS = 32, 10
BACKEND = CpuBackend(1)
POINTS = half_plane_points(SHELLS)


def placed(group, seed=3):
    return Orientation(group, Rotation.random(random_state=seed).as_matrix(), np.array([1.3, -0.8, 0.6]))


WIDTH = 1.7  # voxels, of a blob


def blobs(at, odd=0.0, *, everywhere=False):
    """Return places (n, 3) and heights of blobs, at all places that the group makes of some.

    ``odd`` is the height of one more that has no mates, or a share of it ``everywhere``.
    """
    rng = np.random.default_rng(2)
    turns = at.operators
    places = [turn @ p for p in rng.normal(0, 3.0, (4, 3)) for turn in turns]
    heights = [1.0] * len(places)
    at_odd = [turn @ np.array([4.0, 1.5, -2.0]) for turn in turns]
    if everywhere:
        return np.array(places + at_odd) + at.center, np.array(heights + [odd / len(turns)] * len(turns))
    return np.array([*places, at_odd[-1]]) + at.center, np.array([*heights, odd])


def density(places, heights):
    axis = np.arange(BOX) - BOX // 2
    volume = np.zeros((BOX,) * 3, np.float32)
    for place, height in zip(places, heights, strict=True):
        x, y, z = (np.exp(-((axis - c) ** 2) / (2 * WIDTH**2)) for c in place)
        volume += (height * z[:, None, None] * y[:, None] * x).astype(np.float32)
    return volume


def images_of(places, heights, rotation, shift):
    """Return transforms of projections, (n, n_points), in closed form: a blob's is a Gaussian times a phase."""
    k = np.stack([POINTS.kx, POINTS.ky, np.zeros(len(POINTS))]) / BOX
    fall = (2 * np.pi * WIDTH**2) ** 1.5 * np.exp(-2 * (np.pi * WIDTH) ** 2 * (k**2).sum(axis=0))
    phase = np.exp(-2j * np.pi * np.einsum("pi,nij,jm->npm", places, rotation, k))
    moved = np.exp(-2j * np.pi * np.asarray(shift) @ k[:2])
    return fall * np.einsum("p,npm->nm", heights, phase) * moved


def cube_of(places, heights):
    return BACKEND.cube(density(places, heights), PAD, PAD * SHELLS + 2)


def weighed_of(images, inverse_noise):
    ones = np.ones(images.shape, np.float32)
    noise = np.full((len(images), SHELLS + 1), inverse_noise, np.float32)
    real, imaginary = (np.ascontiguousarray(part, np.float32) for part in (images.real, images.imag))
    return BACKEND.weigh(real, imaginary, ones, POINTS.shell, noise)


def samples_of(rotation, shift):
    """Posteriors of one pose an image."""
    n = len(rotation)
    return PoseSamples(
        rotation[:, None].astype(np.float32), shift[:, None].astype(np.float32), np.ones((n, 1), np.float32),
        np.zeros(n, np.float32), np.ones(n, np.float32), np.zeros(n, np.int32), n,
    )  # fmt: skip


@pytest.mark.parametrize("group", ["C3", "D2", "O"])
def test_a_symmetric_map_shows_the_same_image_at_equivalent_poses(group, rng):
    at = placed(group)
    specimen, order = blobs(at), len(at.operators)
    rotation, shift = random_rotations(rng, 1)[0], np.array([0.7, -1.1])
    which = np.arange(order)
    turned, moved = equivalent_poses(at, np.broadcast_to(rotation, (order, 3, 3)), np.tile(shift, (order, 1)), which)
    expected = images_of(*specimen, rotation[None], shift[None])
    found = images_of(*specimen, turned, moved)
    np.testing.assert_allclose(found, expected.repeat(order, axis=0), atol=1e-4 * np.abs(expected).max())
    # and they are different poses
    angles = np.arccos(np.clip((np.einsum("nij,ij->n", turned, rotation) - 1) / 2, -1, 1))
    assert angles[0] < 1e-3
    assert angles[1:].min() > 0.5


def test_poses_of_one_image_are_brought_together(rng):
    at = placed("D2")
    best, which = random_rotations(rng, 6), rng.integers(0, 4, (6, 9))
    little = Rotation.from_rotvec(rng.normal(0, 0.05, (54, 3))).as_matrix().reshape(6, 9, 3, 3)
    rotation = at.operators[which] @ best[:, None] @ little
    first = rng.integers(0, 9, 6)
    rotation[np.arange(6), first] = best
    found, _ = equivalent_poses(at, rotation, np.zeros((6, 9, 2)), gathered(at, rotation, first))
    angle = np.arccos(np.clip((np.einsum("nkij,nij->nk", found, best) - 1) / 2, -1, 1))
    assert angle.max() < 0.25


def test_the_likelier_is_drawn_more_often(rng):
    scores = np.tile([1000.0, 1000.0 + np.log(3.0), -np.inf], (8000, 1))
    share = np.bincount(drawn(scores, rng.random(8000)), minlength=3) / 8000
    np.testing.assert_allclose(share, [0.25, 0.75, 0.0], atol=0.02)
    assert drawn(np.zeros((1, 3)), np.array([1.0 - 1e-17])).tolist() == [2]


def test_what_the_symmetry_leaves_out_decides_and_is_a_gain(rng):
    """Of equivalent poses the true one is taken, whichever was found; without anything odd none is likelier."""
    at = placed("C3")
    n, odd, symmetric = 60, blobs(at, 1.5), blobs(at, 1.5, everywhere=True)
    rotation, shift = random_rotations(rng, n), rng.normal(0, 0.5, (n, 2))
    images = images_of(*odd, rotation, shift)
    found = equivalent_poses(at, rotation, shift, rng.integers(0, 3, n))
    for plain, gains in ((odd, True), (symmetric, False)):
        cubes = [(cube_of(*symmetric),) * 2, (cube_of(*plain),) * 2]
        chosen = relaxed(
            BACKEND, cubes, PAD, BOX, at, samples_of(*found), weighed_of(images, 2e-2), POINTS, 25,
            np.random.default_rng(5), Share(ALONE, n),
        )  # fmt: skip
        angle = np.arccos(np.clip((np.einsum("nij,nij->n", chosen.samples.rotation[:, 0], rotation) - 1) / 2, -1, 1))
        assert (np.mean(angle < 0.05) > 0.95) == gains
        if gains:
            assert chosen.gain.mean() > 1.0
            np.testing.assert_allclose(chosen.samples.shift[angle < 0.05, 0], shift[angle < 0.05], atol=1e-3)
        assert chosen.samples.evaluations == n + n * 4
        assert (chosen.log_likelihood > 0).all()


def test_an_image_without_mates_of_its_map_gains_nothing_on_average(rng):
    """The gain's mean is at most 0 where the symmetric map is the truth, however wrong the other one is."""
    at = placed("C3")
    truth, n = blobs(at), 400
    rotation, shift = random_rotations(rng, n), np.zeros((n, 2))
    inverse_noise = 2e-3
    noise = np.sqrt(0.5 / inverse_noise) * (rng.normal(size=(n, len(POINTS))) + 1j * rng.normal(size=(n, len(POINTS))))
    images = images_of(*truth, rotation, shift) + noise
    for height in (0.3, 1.0):
        cubes = [(cube_of(*truth),) * 2, (cube_of(*blobs(at, height)),) * 2]
        chosen = relaxed(
            BACKEND, cubes, PAD, BOX, at, samples_of(rotation, shift), weighed_of(images, inverse_noise), POINTS, 200,
            np.random.default_rng(5), Share(ALONE, n),
        )  # fmt: skip
        assert chosen.gain.mean() < 0
        assert chosen.gain.std() > 0.01


def test_whichever_is_taken_the_symmetric_sums_are_the_same(rng):
    at = placed("D2")
    n = 200
    rotation, shift = random_rotations(rng, n), rng.normal(0, 0.5, (n, 2))
    weighed = weighed_of(images_of(*blobs(at, 1.0), rotation, shift), 1.0)
    solved = []
    for which in (np.zeros(n, int), rng.integers(0, 4, n)):
        halves = HalfMaps(BACKEND, ImageGeometry(BOX, 3.0, 12.0, 2.0), SHELLS)
        poses = samples_of(*equivalent_poses(at, rotation, shift, which))
        halves.insert(n, poses, weighed, POINTS, 1e-9)
        sums = symmetrised(BACKEND, halves._accumulators[0], SHELLS, BOX, at, published=False)
        weights = BACKEND.shell_weights(sums.grid, PAD, SHELLS)
        regulariser = np.append(weights, [weights[-1]] * 2)
        solved.append(BACKEND.solve((sums.grid, sums.grid), PAD, SHELLS, regulariser, 0.5, BOX))
    assert np.corrcoef(solved[0].ravel(), solved[1].ravel())[0, 1] > 0.999
