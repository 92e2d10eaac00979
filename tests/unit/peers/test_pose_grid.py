"""Cells, assignments and sums of the batch methods, against one pose at a time and against SciPy."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.quadrature import pose_cells
from streamrecon.inference.search import CellPosterior
from streamrecon.peers import pose_grid
from streamrecon.peers.pose_grid import RotationSums, assign, cell_rotations, cell_scores
from streamrecon.reconstruct.accumulator import Accumulator

BOX, PAD, K = 32, 2, 5
N_PSI, N = 4, 6  # positive in-plane angles, images
PSI = (np.arange(N_PSI) + 0.5) * np.pi / N_PSI


@pytest.fixture(scope="module")
def cells():
    return pose_cells(4, 2 * N_PSI, 2.0, 2.0)


@pytest.fixture(scope="module")
def planes(cells):
    rng = np.random.default_rng(0)
    s, d = len(cells.shifts), cells.n_pairs
    return rng.normal(0, 2, (4, N_PSI, N * s * d)).astype(np.float32), rng.random((N, d)).astype(np.float32)


def test_scores_and_rotations_are_those_of_the_cells_that_the_kernels_draw(cells, planes):
    backend = CpuBackend(1)
    planes, power = planes
    s = len(cells.shifts)
    best = backend.best_cell(planes, power, s)
    scores = cell_scores(CellPosterior(planes, power, best), s)
    np.testing.assert_allclose(scores.max(axis=(0, 1, 3, 4)), best, rtol=1e-5)
    # at a temperature near zero every draw is the best cell; the middle of the cell is at uniform numbers of a half
    masses = backend.cell_masses(planes, power, s, best, 1e-3)
    middle = np.full((N, 1, 4), 0.5, np.float32)
    start = np.full(N, 0.5, np.float32)
    drawn = backend.draw_poses(
        planes, power, best, masses, 1e-3, 0, cells, PSI.astype(np.float32), (start, middle, middle)
    )
    found = assign(scores.copy(), soft=False)
    v, j, shift, d = found.best.T
    rotation = cell_rotations(cells, PSI)[v, j, d]
    np.testing.assert_allclose(cells.shifts[shift], drawn[1][:, 0], atol=1e-6)
    # the drawn direction is a sub-pixel's, half a pixel from the middle; the next direction is 14 degrees off
    trace = np.einsum("nij,nij->n", rotation, drawn[0][:, 0])
    assert np.rad2deg(np.arccos((trace - 1) / 2)).max() < 10


def test_soft_weights_are_the_softmax_and_the_evidence_its_mean(cells, planes):
    planes, power = planes
    s = len(cells.shifts)
    scores = cell_scores(CellPosterior(planes, power, np.zeros(N)), s)
    by_image = np.moveaxis(scores, 2, 0).reshape(N, -1).astype(np.float64)
    found = assign(scores.copy(), soft=True)
    weights = np.moveaxis(found.weight, 2, 0).reshape(N, -1)
    np.testing.assert_allclose(weights, softmax(by_image, axis=1), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.log_evidence, logsumexp(by_image, axis=1) - np.log(by_image.shape[1]), rtol=1e-5)
    np.testing.assert_allclose(found.effective_sample_size, 1 / (softmax(by_image, axis=1) ** 2).sum(axis=1), rtol=1e-4)


def test_hard_weights_are_one_at_the_best(cells, planes):
    planes, power = planes
    scores = cell_scores(CellPosterior(planes, power, np.zeros(N)), len(cells.shifts))
    best = np.moveaxis(scores, 2, 0).reshape(N, -1).argmax(axis=1)
    found = assign(scores.copy(), soft=False)
    weights = np.moveaxis(found.weight, 2, 0).reshape(N, -1)
    assert weights.sum(axis=1).tolist() == [1.0] * N
    assert (weights.argmax(axis=1) == best).all()


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["dense", "sparse"])
def test_sums_by_rotation_give_the_map_that_inserting_each_pose_gives(cells, planes, monkeypatch, share):
    monkeypatch.setattr(pose_grid, "_DENSE_SHARE", share)
    backend, points = CpuBackend(1), half_plane_points(K)
    planes, power = planes
    s, d = len(cells.shifts), cells.n_pairs
    found = assign(cell_scores(CellPosterior(planes, power, np.zeros(N)), s), soft=True)
    weighed = np.random.default_rng(1).normal(size=(3, N, len(points))).astype(np.float32)
    weighed[2] = np.abs(weighed[2])
    sums = RotationSums(cells, N_PSI, points, BOX)
    sums.add(found.weight, weighed)
    rotations = cell_rotations(cells, PSI)
    ours, direct = Accumulator(backend, PAD, K), Accumulator(backend, PAD, K)
    n = sums.sums.shape[1]
    backend.insert(
        ours.grid, PAD, points, BOX, sums.sums, rotations.reshape(n, 1, 3, 3), np.zeros((n, 1, 2), np.float32),
        np.ones((n, 1), np.float32), 0.0, 1.0,
    )  # fmt: skip
    # image by image, each with all its poses
    shape = (4, N_PSI, s, d)
    every = np.broadcast_to(rotations[:, :, None], (*shape, 3, 3)).reshape(1, -1, 3, 3).repeat(N, axis=0)
    shift = np.broadcast_to(cells.shifts[:, None], (*shape, 2)).reshape(1, -1, 2).repeat(N, axis=0)
    weight = np.moveaxis(found.weight, 2, 0).reshape(N, -1)
    backend.insert(
        direct.grid, PAD, points, BOX, weighed, np.ascontiguousarray(every), np.ascontiguousarray(shift),
        np.ascontiguousarray(weight), 0.0, 1.0,
    )  # fmt: skip
    np.testing.assert_allclose(ours.grid[..., :3], direct.grid[..., :3], atol=2e-3 * np.abs(direct.grid).max())
