"""The objective of posed images: value, gradient, Hessian and curvature, each against another route."""

import numpy as np
import pytest

from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import soft_sphere
from streamrecon.optimise.coordinates import band_coordinates
from streamrecon.optimise.interface import dot
from streamrecon.optimise.objective import MapModel, PosedImages
from tests.unit.compute.conftest import BOX
from tests.unit.compute.conftest import backend as backend  # the fixture itself

K_MAX = 5
MAP_BOX = 14
IMAGES, POSES = 12, 3


def poses(rng, n=IMAGES, k=POSES):
    weight = rng.random((n, k)).astype(np.float32)
    weight[0, 0] = 1e-5  # too light to count
    return PoseSamples(
        rotation=random_rotations(rng, n * k).reshape(n, k, 3, 3).astype(np.float32),
        shift=rng.normal(0, 1.5, (n, k, 2)).astype(np.float32),
        weight=weight,
        log_evidence=np.zeros(n, np.float32),
        effective_sample_size=np.ones(n, np.float32),
        best=np.zeros(n, np.int32),
        evaluations=0,
    )


@pytest.fixture
def model(backend):
    return MapModel(backend, 2, K_MAX, MAP_BOX, soft_sphere(MAP_BOX, 5.0, 1.5, dimensions=3))


@pytest.fixture
def images(rng, backend):
    points = half_plane_points(K_MAX)
    image = rng.normal(size=(2, IMAGES, len(points))).astype(np.float32)
    ctf = rng.uniform(-1, 1, (IMAGES, len(points))).astype(np.float32)
    inverse_noise = rng.uniform(0.5, 2, (IMAGES, K_MAX + 1)).astype(np.float32)
    return backend.weigh(image[0], image[1], ctf, points.shell, inverse_noise)


def vector(rng):
    return rng.normal(size=len(band_coordinates(K_MAX))).astype(np.float32)


@pytest.fixture
def objective(rng, model, images):
    precision = rng.uniform(0.0, 1e-3, len(band_coordinates(K_MAX)))
    return PosedImages(model, BOX, half_plane_points(K_MAX), images, poses(rng), precision=precision)


def test_the_cubes_adjoint(rng, model):
    """<A v, g> = <v, A^H g> for every grid that slices of the band reach."""
    v = vector(rng)
    grid = rng.normal(size=model.empty_grid().shape).astype(np.float32)
    grid[..., 2:] = 0.0
    axis = np.arange(-model.radius, model.radius + 1)
    x = np.arange(model.radius + 1)
    grid[np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + x**2) > model.radius] = 0.0
    left = dot(model.cube(v).ravel(), np.ascontiguousarray(grid[..., :2]).ravel())
    right = dot(v, model.adjoint(grid))
    assert abs(left - right) < 1e-5 * np.linalg.norm(model.cube(v)) * np.linalg.norm(grid)
    assert abs(left) > 1e-3 * np.linalg.norm(model.cube(v)) * np.linalg.norm(grid)


def test_the_value_is_minus_the_mean_score(rng, backend, model, images):
    """Against the kernel that poses are scored with."""
    v, found = vector(rng), poses(rng)
    objective = PosedImages(model, BOX, half_plane_points(K_MAX), images, found)
    score = backend.score(model.cube(v), 2, half_plane_points(K_MAX), BOX, images, found.rotation, found.shift)
    weight = np.where(found.weight >= 1e-3, found.weight, 0.0)
    assert np.isclose(objective.value(v), -(weight * score).sum() / IMAGES, rtol=1e-5)


def test_the_gradient_agrees_with_finite_differences(rng, objective):
    v, d = vector(rng), vector(rng)
    h = 0.05
    slope = (objective.value(v + h * d) - objective.value(v - h * d)) / (2 * h)
    assert np.isclose(slope, dot(objective.gradient(v), d), rtol=1e-4)
    # and in single coordinates: the zeroth, the real and the imaginary part of one
    for i in (0, 7, 8):
        e = np.zeros_like(v)
        e[i] = 1.0
        slope = (objective.value(v + e) - objective.value(v - e)) / 2
        assert abs(slope - objective.gradient(v)[i]) < 1e-5 * np.abs(objective.gradient(v)).max()


def test_the_product_agrees_with_differences_of_gradients(rng, objective):
    v, d = vector(rng), vector(rng)
    difference = objective.gradient(v + d) - objective.gradient(v)
    np.testing.assert_allclose(objective.product(d), difference, atol=2e-5 * np.abs(difference).max())
    e = vector(rng)
    assert np.isclose(dot(e, objective.product(d)), dot(d, objective.product(e)), rtol=1e-4)
    assert dot(d, objective.product(d)) > 0


def test_curvature_and_its_largest(rng, backend, images):
    """Against the Hessian in full, of a map without a mask: a mask only couples neighbours."""
    model = MapModel(backend, 2, K_MAX, MAP_BOX, np.ones((MAP_BOX,) * 3, np.float32))
    objective = PosedImages(model, BOX, half_plane_points(K_MAX), images, poses(rng))
    hessian = np.stack([objective.product(e) for e in np.eye(len(objective.shell), dtype=np.float32)])
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-5 * hessian.max())
    eigenvalues = np.linalg.eigvalsh(hessian.astype(float))
    assert eigenvalues[0] > -1e-5 * eigenvalues[-1]
    ratio = objective.curvature[1:] / np.diag(hessian)[1:]
    assert np.abs(np.log(np.median(ratio))) < 0.1
    assert np.percentile(ratio, 5) > 0.6
    assert np.percentile(ratio, 95) < 1.6
    assert 0.5 * eigenvalues[-1] < objective.largest_curvature < 2 * eigenvalues[-1]


def test_more_of_the_same_images_change_nothing(rng, model, images):
    """Means over images: step sizes do not depend on how many there are."""
    v, found, points = vector(rng), poses(rng), half_plane_points(K_MAX)
    twice = PoseSamples.concatenate(model.backend, [found, found])
    one = PosedImages(model, BOX, points, images, found)
    two = PosedImages(model, BOX, points, np.concatenate([images, images], axis=1), twice)
    assert two.images == 2 * one.images
    np.testing.assert_allclose(two.gradient(v), one.gradient(v), atol=1e-5 * np.abs(one.gradient(v)).max())
    np.testing.assert_allclose(two.curvature, one.curvature, rtol=1e-4)
