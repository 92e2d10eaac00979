"""Half-plane points: each once, and a narrower band found inside a wider one."""

import numpy as np
import pytest

from streamrecon.fourier.points import half_plane_points, points_within


def test_a_point_and_its_mate_make_the_disc():
    points = half_plane_points(7)
    half = {(int(x), int(y)) for x, y in zip(points.kx, points.ky, strict=True)}
    mates = {(-x, -y) for x, y in half}
    disc = {(x, y) for x in range(-7, 8) for y in range(-7, 8) if 0 < x * x + y * y <= 49}
    assert len(half) == len(points)
    assert not half & mates
    assert half | mates == disc


@pytest.mark.parametrize("k_max", [1, 5, 12])
def test_a_narrower_band_is_where_it_is_said_to_be(k_max):
    points = half_plane_points(12)
    narrow, index = points_within(points, k_max)
    assert narrow.k_max == k_max
    for name in ("kx", "ky", "shell"):
        np.testing.assert_array_equal(getattr(narrow, name), getattr(points, name)[index])
