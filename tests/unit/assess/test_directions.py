import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import i0e

from streamrecon.assess.directions import (
    angular_counts,
    orientation_efficiency,
    pixel_directions,
    point_spread_extent,
    tilt_suggestion_degrees,
    tilted_counts,
)
from streamrecon.geometry.rotation import random_rotations, rotation_from_euler

N_SIDE = 8


def belt(n_side):
    """Views all around one axis: side views of a specimen that stands on its end."""
    return (np.abs(pixel_directions(n_side)[:, 2]) < 1e-9).astype(float)


def cap(degrees, n_side=N_SIDE):
    return (pixel_directions(n_side)[:, 2] > np.cos(np.deg2rad(degrees))).astype(float)


def test_a_view_counts_where_the_beam_points_in_the_volume():
    # rot, tilt are the beam's azimuth and polar angle, whatever psi is
    euler = np.array([[30.0, 70.0, 11.0], [30.0, 70.0, 200.0], [120.0, 10.0, 0.0]])
    counts = angular_counts(rotation_from_euler(euler), N_SIDE)
    assert counts.sum() == 3
    assert sorted(counts[counts > 0]) == [1, 2]
    rot, tilt = np.deg2rad(euler[0, :2])
    beam = [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)]
    assert pixel_directions(N_SIDE)[counts.argmax()] @ beam > np.cos(np.deg2rad(6))


def test_uniform_views_are_worth_everything(rng):
    assert orientation_efficiency(np.ones(12 * N_SIDE**2)) == pytest.approx(1, abs=2e-3)
    assert orientation_efficiency(angular_counts(random_rotations(rng, 5000), N_SIDE)) > 0.98
    extent = point_spread_extent(np.ones(12 * N_SIDE**2), np.eye(3))
    assert extent.max() / extent.min() < 1.01


def test_uniform_views_have_dawsons_point_spread():
    """The mean of exp(-r^2 (1 - c^2) / 2) over c in 0..1 is Dawson's integral: D(r / sqrt 2) sqrt 2 / r."""
    from scipy.special import dawsn

    expected = brentq(lambda r: dawsn(r / np.sqrt(2)) * np.sqrt(2) / r - 0.5, 0.1, 10)
    assert point_spread_extent(np.ones(12 * 32**2), np.eye(3)) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("polar", [0, 20, 45, 70, 90])
def test_side_views_have_a_point_spread_in_closed_form(polar):
    """Views around z: exp(-z^2 / 2) along the axis, exp(-rho^2 / 4) I0(rho^2 / 4) across it."""
    s, c = np.sin(np.deg2rad(polar)), np.cos(np.deg2rad(polar))
    expected = brentq(lambda r: i0e((r * s) ** 2 / 4) * np.exp(-((r * c) ** 2) / 2) - 0.5, 0.1, 20)
    assert point_spread_extent(belt(64), np.array([[s, 0, c]])) == pytest.approx(expected, rel=1e-3)


def test_side_views_efficiency_is_that_of_the_closed_form():
    def extent(polar):
        s, c = np.sin(polar), np.cos(polar)
        return brentq(lambda r: i0e((r * s) ** 2 / 4) * np.exp(-((r * c) ** 2) / 2) - 0.5, 0.1, 20)

    cosines = (np.arange(400) + 0.5) / 400
    extents = np.array([extent(np.arccos(c)) for c in cosines])
    expected = 1 - 2 * extents.std() / extents.mean()
    assert orientation_efficiency(belt(16)) == pytest.approx(expected, abs=0.01)


def test_fewer_views_are_worth_less_and_one_is_worth_nothing():
    values = [orientation_efficiency(cap(degrees)) for degrees in (90, 60, 40, 25, 10)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0
    assert orientation_efficiency(np.zeros(12 * N_SIDE**2)) is None
    assert tilt_suggestion_degrees(np.zeros(12 * N_SIDE**2)) is None


def test_tilting_turns_one_view_into_a_ring():
    one = np.zeros(12 * 16**2)
    one[0] = 100
    ring = tilted_counts(one, 40)
    assert ring.sum() == pytest.approx(100)
    angle = np.rad2deg(np.arccos(pixel_directions(16)[ring > 0] @ pixel_directions(16)[0]))
    np.testing.assert_allclose(angle, 40, atol=4)
    assert len(angle) > 20


def test_good_views_need_no_tilt_and_poor_ones_the_smallest_that_helps():
    assert tilt_suggestion_degrees(np.ones(12 * N_SIDE**2)) == 0
    suggestion = tilt_suggestion_degrees(cap(15))
    assert 30 <= suggestion <= 50
    assert orientation_efficiency(tilted_counts(cap(15), suggestion)) >= 0.8
    assert orientation_efficiency(tilted_counts(cap(15), suggestion - 10)) < 0.8
