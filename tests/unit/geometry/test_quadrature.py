"""The search's cells tile poses evenly."""

import numpy as np
import pytest

from streamrecon.geometry.quadrature import pose_cells, shift_grid


@pytest.mark.parametrize("order", [2, 4])
def test_directions_come_in_antipodal_pairs(order):
    cells = pose_cells(order, 24, 4.0, 2.0)
    n = cells.n_pairs
    assert len(cells.directions) == 12 * order**2
    views = cells.directions[:, :, 2]
    np.testing.assert_allclose(views[n:], -views[:n], atol=1e-6)
    # the slice of the antipode is the mirror image: x axis shared, y axis turned round
    np.testing.assert_allclose(cells.directions[n:, :, 0], cells.directions[:n, :, 0], atol=1e-6)
    np.testing.assert_allclose(cells.directions[n:, :, 1], -cells.directions[:n, :, 1], atol=1e-6)
    # no direction occurs twice
    distance = np.linalg.norm(views[:, None] - views[None], axis=-1) + 10 * np.eye(2 * n)
    assert distance.min() > 0.5 / order


def test_children_fill_the_sphere_evenly_and_lie_in_their_pixel():
    cells = pose_cells(4, 24, 0.0, 1.0)
    theta, phi = cells.children[..., 0], cells.children[..., 1]
    point = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    np.testing.assert_allclose(point.reshape(-1, 3).mean(axis=0), 0.0, atol=1e-5)
    second_moment = np.einsum("dci,dcj->ij", point, point) / point[..., 0].size
    np.testing.assert_allclose(second_moment, np.eye(3) / 3, atol=1e-3)
    angle = np.rad2deg(np.arccos(np.clip(np.einsum("dci,di->dc", point, cells.directions[:, :, 2]), -1, 1)))
    assert angle.max() < 15.0
    assert angle.mean() < 8.0


def test_shift_grid():
    grid = shift_grid(4.0, 2.0)
    assert len(grid) == 13
    assert np.linalg.norm(grid, axis=1).max() <= 4.0 + 1e-5
    np.testing.assert_allclose(grid.mean(axis=0), 0, atol=1e-6)
    assert shift_grid(0.0, 1.0).tolist() == [[0.0, 0.0]]


def test_cell_width_follows_the_volume():
    cells = pose_cells(4, 48, 4.0, 2.0)
    assert cells.n_cells == 192 * 48 * 13
    # 8 pi^2 over 192 x 48 cells
    assert np.isclose((2 * cells.rotation_half_width) ** 3 * 192 * 48, 8 * np.pi**2)


def test_the_shift_grid_reaches_its_range_however_the_step_divides_it():
    for steps in range(1, 9):
        grid = shift_grid(3.7, 3.7 / steps)
        assert np.isclose(grid[:, 0].max(), 3.7, rtol=1e-5)
        assert np.isclose(grid[:, 1].min(), -3.7, rtol=1e-5)
