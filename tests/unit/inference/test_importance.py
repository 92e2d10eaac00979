"""Importance sampling against full quadrature on a small case."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points, points_within
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import Band, SamplingPlan, plan_rounds, refine_samples
from tests.unit.compute.conftest import BOX, gaussian_volume
from tests.unit.compute.conftest import blobs as blobs  # the fixture itself
from tests.unit.inference.test_search import images_of

K_MAX = 6
PAD = 2
AREA = 16.0  # shifts within a square of four pixels
SHIFT = (0.6, -0.4)


@pytest.fixture(scope="module")
def case(request):
    """One image whose posterior is a few degrees wide, weighed."""
    blobs = request.getfixturevalue("blobs")
    backend = CpuBackend(1)
    points = half_plane_points(K_MAX)
    rng = np.random.default_rng(11)
    truth = random_rotations(rng, 1)
    image = images_of(blobs, truth, np.array([SHIFT]), lambda *_: 1.0)
    deviation = 1.0 * image.std()
    image += rng.normal(0, deviation, image.shape).astype(np.float32)
    transform = backend.image_transforms(image, np.ones((BOX, BOX), np.float32))
    real, imaginary = backend.half_plane(transform, points)
    noise = np.full((1, K_MAX + 1), 1 / (deviation * BOX) ** 2, np.float32)
    weighed = backend.weigh(real, imaginary, np.ones_like(real), points.shell, noise)
    cube = backend.cube(gaussian_volume(blobs), PAD, PAD * K_MAX + 2)
    return backend, points, weighed, cube, truth[0]


def quadrature(case, width, n):
    """Log-likelihoods on a regular grid of poses around the truth: n points a rotation axis, 13 a shift axis."""
    backend, points, weighed, cube, truth = case
    axis = (np.arange(n) + 0.5) / n * 2 * width - width
    omega = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    t = (np.arange(13) + 0.5) / 13 * 2 - 1
    tx, ty = (v.ravel() for v in np.meshgrid(t + SHIFT[0], t + SHIFT[1]))
    rotation = (Rotation.from_rotvec(omega).as_matrix() @ truth).astype(np.float32)
    rotation = np.repeat(rotation, len(tx), axis=0)[None]
    shift = np.tile(np.stack([tx, ty], -1), (len(omega), 1)).astype(np.float32)[None]
    return rotation, shift, backend.score(cube, PAD, points, BOX, weighed, rotation, shift)[0].astype(float)


@pytest.mark.parametrize("shells", [None, K_MAX // 2])
def test_weights_and_evidence_agree_with_quadrature(case, shells):
    """Posterior mean and spread of the shift, and the evidence; also where all rounds but the last see half the band.

    Sets of 1,000 samples, so that the boxes around them cover the posterior: with the product's 64, the part
    that no box covers is missing, and the evidence comes out lower.
    """
    backend, points, weighed, cube, truth = case
    width = 0.4
    rotation, shift, score = quadrature(case, width, 21)
    p = np.exp(score - score.max())
    p /= p.sum()
    edge = np.abs(Rotation.from_matrix(rotation[0].astype(float) @ truth.T).as_rotvec()).max(axis=1) > 0.9 * width
    assert p[edge].sum() < 0.02, "the quadrature must hold the whole posterior"
    volume = (2 * width) ** 3 / (8 * np.pi**2)  # of the grid's rotations, over all rotations
    exact_evidence = np.log(np.exp(score - score.max()).mean() * volume * 4 / AREA) + score.max()
    exact_shift = p @ shift[0]
    repeats, k = 20, 1000
    rng = np.random.default_rng(0)
    first_turn = rng.uniform(-width, width, (repeats, k, 3))
    first = (
        (Rotation.from_rotvec(first_turn.reshape(-1, 3)).as_matrix() @ truth).reshape(repeats, k, 3, 3).astype("f4"),
        rng.uniform(-2, 2, (repeats, k, 2)).astype("f4"),
        np.full((repeats, k), 1 / volume, np.float32),
        None,
    )
    whole = Band(points, None)
    early = whole if shells is None else Band(*points_within(points, shells))
    plan = SamplingPlan((0.25, 0.15), (1.0, 0.6), (early, early, whole), (k, k), AREA, 1.0)
    starts = rng.random((repeats, 2), np.float32)
    moves = rng.random((2, repeats, k, 5), np.float32)
    many = np.repeat(weighed, repeats, axis=1)
    found = refine_samples(backend, cube, PAD, BOX, many, first, plan, (starts, moves))
    np.testing.assert_allclose(found.weight.sum(axis=1), 1.0, rtol=1e-5)
    mean_shift = np.einsum("nk,nkc->nc", found.weight, found.shift).mean(axis=0)
    np.testing.assert_allclose(mean_shift, exact_shift, atol=0.05)
    second = np.einsum("nk,nkc->nc", found.weight, (found.shift - exact_shift) ** 2).mean(axis=0)
    np.testing.assert_allclose(second, p @ (shift[0] - exact_shift) ** 2, rtol=0.15)
    assert abs(np.log(np.exp(found.log_evidence.astype(float) - exact_evidence).mean())) < 0.15
    share = len(early.points) / len(points)
    assert found.evaluations == round(repeats * k * (1 + 2 * share))


def test_density_of_proposals_is_normalised(case):
    """The mean of uniform density over proposal density is the volume the proposals cover, in closed form."""
    backend = case[0]
    rng = np.random.default_rng(1)
    n, k = 50, 400
    one = np.repeat(random_rotations(rng, n)[:, None], 3, axis=1).astype("f4")
    one[:, 1] = (Rotation.from_rotvec([0.05, 0, 0]).as_matrix() @ one[:, 0].astype(float)).astype("f4")
    one[:, 2] = (Rotation.from_rotvec([0, 0, 1.5]).as_matrix() @ one[:, 0].astype(float)).astype("f4")
    shift = np.zeros((n, 3, 2), np.float32)
    weight = np.tile(np.array([0.5, 0.3, 0.2], np.float32), (n, 1))
    draws = (rng.random(n, np.float32), rng.random((n, k, 5), np.float32))
    turn, slide = 0.05, 0.5
    rotation, moved, density = backend.propose(one, shift, weight, turn, slide, AREA, *draws)
    box = (2 * turn) ** 3 / (8 * np.pi**2) * (2 * slide) ** 2 / AREA
    # boxes 0 and 1 overlap by half in one axis: together 1.5 boxes, and box 2 lies apart
    assert np.isclose((1 / density).mean(), 2.5 * box, rtol=0.03)
    assert np.abs(moved).max() <= slide
    angle = Rotation.from_matrix(rotation[:, :, :].reshape(-1, 3, 3).astype(float)).magnitude()
    assert np.isfinite(angle).all()
    values = (density * box)[..., None] - np.array([0.2, 0.3, 0.5, 0.8])
    assert np.abs(values).min(axis=-1).max() < 1e-3


def test_plan_halves_until_the_band_is_resolved():
    turns, slides = plan_rounds(0.2, 1.0, 0.06, 5)
    assert turns == (0.1, 0.05)
    assert slides == (0.5, 0.25)
    assert len(plan_rounds(0.2, 1.0, 1e-9, 3)[0]) == 3
    assert len(plan_rounds(0.2, 1.0, 10.0, 3)[0]) == 1
