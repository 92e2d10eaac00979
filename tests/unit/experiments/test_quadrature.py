"""The full grid against chance, the refinement's tiling, and the comparison of gradients."""

import numpy as np
import pytest
from scipy.special import logsumexp

from streamrecon.compute.cpu import CpuBackend
from streamrecon.experiments import quadrature
from streamrecon.experiments.plan import Data
from streamrecon.experiments.problem import make_problem
from streamrecon.experiments.quadrature import FullGrid, _Cells, evaluate, full_grid
from streamrecon.experiments.sampling import compare, measure_band
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.quadrature import pose_cells
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.observation import ImageGeometry
from streamrecon.peers.start import map_of_true_poses

BOX, PAD, K = 32, 2, 4
GEOMETRY = ImageGeometry(BOX, 6.4, 12.0, 2.0)
CELLS = pose_cells(2, 16, 2.0, 2.0)


@pytest.fixture(autouse=True)
def few_cells(monkeypatch):
    """So that much of the posterior stays in cells that are not cut."""
    monkeypatch.setattr(quadrature, "_MOST_CELLS", 1024)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    backend = CpuBackend(1)
    volume = np.zeros((BOX,) * 3, np.float32)
    for center in rng.integers(10, 22, (5, 3)):
        volume[tuple(center)] = 1.0
    cube = backend.cube(volume, PAD, PAD * K + 2)
    points = half_plane_points(K)
    weighed = rng.normal(0, 0.25, (3, 2, len(points))).astype(np.float32)
    weighed[2] = 0.02
    return backend, cube, points, weighed


def test_the_evidence_is_the_mean_over_random_poses(scene):
    backend, cube, points, weighed = scene
    grid = full_grid(GEOMETRY, CELLS, K, 0.4)
    found = evaluate(grid, cube, points, BOX, weighed)
    rng = np.random.default_rng(1)
    n = 100_000
    rotation = random_rotations(rng, n).astype(np.float32)
    cell = rng.integers(0, len(CELLS.shifts), n)
    shift = (CELLS.shifts[cell] + (rng.random((n, 2)) - 0.5) * CELLS.shift_step).astype(np.float32)
    score = backend.score(
        cube, PAD, points, BOX, weighed, rotation[None].repeat(2, axis=0), shift[None].repeat(2, axis=0)
    ).astype(np.float64)
    expected = logsumexp(score, axis=1) - np.log(n)
    for posterior, value in zip(found, expected, strict=True):
        assert posterior.log_evidence == pytest.approx(value, abs=0.15)
        assert posterior.weight.sum() == pytest.approx(1.0)


def test_a_grid_that_is_turned_gives_the_same(scene):
    _, cube, points, weighed = scene
    grid = full_grid(GEOMETRY, CELLS, K, 0.5)
    turn = random_rotations(np.random.default_rng(2), 1)[0]
    one, other = (evaluate(grid, cube, points, BOX, weighed, t) for t in (None, turn))
    for a, b in zip(one, other, strict=True):
        assert a.log_evidence == pytest.approx(b.log_evidence, abs=0.02)


def test_steps_are_as_asked():
    grid = full_grid(GEOMETRY, CELLS, 8, 0.5)
    rim = GEOMETRY.particle_radius / BOX
    side = np.sqrt(4 * np.pi / (12 * grid.n_side**2))
    assert side * 8 * rim <= 0.5
    assert 2 * np.pi / grid.n_psi * 8 * rim <= 0.5
    assert grid.shift_step * 8 / BOX <= 0.5
    # the squares cover what the search's squares do
    assert len(grid.shifts) * grid.shift_step**2 == pytest.approx(len(CELLS.shifts) * CELLS.shift_step**2)
    assert grid.n_poses == 12 * grid.n_side**2 * grid.n_psi * len(grid.shifts)


def test_children_tile_their_cell():
    grid = FullGrid(2, 16, CELLS.shifts, 2.0)
    cells = _Cells(grid.n_side, grid.n_psi, 2.0, np.array([7]), np.array([3]), np.array([[1.0, -1.0]], np.float32))
    children = cells.children()
    assert len(children.pixel) == 32
    assert (
        len({(p, a, *s) for p, a, s in zip(children.pixel, children.angle, children.shift.tolist(), strict=True)}) == 32
    )
    np.testing.assert_allclose(children.shift.mean(axis=0), [1.0, -1.0])
    # their mean rotation is about the cell's
    mean = children.rotation(None).mean(axis=0)
    u, _, v = np.linalg.svd(mean)
    trace = np.trace((u @ v).T @ cells.rotation(None)[0])
    assert np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1))) < 3


def test_gradients_are_compared_with_their_own_spread():
    rng = np.random.default_rng(3)
    exact = rng.normal(0, 1, (400, 50))
    assert compare(exact, exact)["error"] == 0.0
    noisy = exact + rng.normal(0, 0.5, exact.shape)
    found = compare(noisy, exact)
    assert found["error"] == pytest.approx(0.5, rel=0.03)
    assert found["median"] == pytest.approx(0.5, rel=0.03)
    # of a mean that is noise alone, the mean error is half
    assert found["mean_error"] == pytest.approx(0.5, rel=0.25)


def test_importance_sampling_is_measured_at_a_band():
    problem = make_problem(Data(box_size=32, snr=1.0, mini_batch=50))
    backend = CpuBackend(1)
    volume = map_of_true_poses(problem.batches(200), problem.geometry, backend)
    row = measure_band(problem, volume, 4, images=4, grid_step=0.5, backend=backend)
    assert row["grid_error"] < 0.3
    assert row["grid_error"] < row["sampled_error"] < 2
    assert row["factor_evaluations"] == row["grid_poses"] / row["evaluations"]
    assert abs(row["evidence_difference"]) < 10
