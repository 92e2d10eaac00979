"""Pose errors on cases whose answer is known."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from streamrecon.compare.poses import pose_errors
from streamrecon.geometry.rotation import random_rotations
from streamrecon.simulate.projection import Projector
from streamrecon.simulate.specimen import density_from_model

N = 400
FRAME = Rotation.from_euler("ZYZ", [50, 70, -20], degrees=True).as_matrix()
D2 = np.stack([np.eye(3), np.diag([1, -1, -1.0]), np.diag([-1, 1, -1.0]), np.diag([-1, -1, 1.0])])
OTHER_HAND = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def truth(rng):
    return random_rotations(rng, N)


def jitter(rng, rotations, degrees):
    """Turn each by exactly so many degrees about an axis of its own."""
    axis = rng.standard_normal((len(rotations), 3))
    axis *= np.deg2rad(degrees) / np.linalg.norm(axis, axis=1, keepdims=True)
    return Rotation.from_rotvec(axis).as_matrix() @ rotations


def test_a_turned_frame_is_no_error(truth):
    found = pose_errors(truth, FRAME @ truth)
    assert found.error_degrees.max() < 0.01
    assert not found.mirrored
    assert found.share_within(0.01) == 1


def test_errors_are_measured(rng, truth):
    found = pose_errors(truth, FRAME @ jitter(rng, truth, 4.0))
    assert found.median_degrees == pytest.approx(4.0, abs=0.4)
    assert found.error_degrees == pytest.approx(np.full(N, 4.0), abs=1.5)


def test_the_other_hand_is_told(rng, truth):
    found = pose_errors(truth, FRAME @ jitter(rng, truth, 2.0) @ OTHER_HAND)
    assert found.mirrored
    assert found.median_degrees == pytest.approx(2.0, abs=0.4)


def test_the_other_hand_is_what_a_mirrored_map_shows():
    """A map inverted through the origin looks from R Rz(180) as the true one does from R."""
    volume = density_from_model(None, 32, 6.4)
    inverted = np.roll(volume[::-1, ::-1, ::-1], 1, axis=(0, 1, 2))
    views = random_rotations(np.random.default_rng(5), 4)
    shift = np.zeros((4, 2))
    true = Projector(volume, 6.4).project(views, shift)
    projector = Projector(np.ascontiguousarray(inverted), 6.4)
    # one per cent: an even box has no mate for its Nyquist planes
    same, other = (np.abs(projector.project(v, shift) - true).max() for v in (views @ OTHER_HAND, views))
    assert same < 0.01 * np.abs(true).max() < 0.1 * other


def test_outliers_are_outliers_and_leave_the_rest_alone(rng, truth):
    estimate = FRAME @ truth
    estimate[: N // 4] = random_rotations(rng, N // 4)
    found = pose_errors(truth, estimate)
    assert found.error_degrees[N // 4 :].max() < 0.1
    assert np.median(found.error_degrees[: N // 4]) > 60
    assert 0.75 <= found.share_within(5) < 0.78


def test_a_symmetric_specimen_has_several_right_frames(rng, truth):
    mate = D2[rng.integers(4, size=N)]
    estimate = FRAME @ mate @ truth
    found = pose_errors(truth, estimate, n_symmetric=4)
    assert found.error_degrees.max() < 0.1
    assert 0.2 < pose_errors(truth, estimate).share_within(5) < 0.35
    assert pose_errors(truth, estimate, n_symmetric=3).share_within(5) < 0.85


def test_random_poses_are_wrong_even_with_symmetry(rng, truth):
    found = pose_errors(truth, random_rotations(rng, N), n_symmetric=4)
    assert found.median_degrees > 30
    assert found.share_within(5) < 0.05
