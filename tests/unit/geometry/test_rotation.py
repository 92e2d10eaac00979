"""Rotations against SciPy's and the formulas of the convention."""

import numpy as np
from scipy.spatial.transform import Rotation

from streamrecon.geometry.rotation import (
    angular_distance_degrees,
    euler_from_rotation,
    quaternion_from_rotation,
    random_rotations,
    rotation_from_euler,
    rotation_from_rotation_vector,
    rotation_vector_from_rotation,
)


def test_euler_is_rz_ry_rz():
    rot, tilt, psi = np.deg2rad([30.0, 50.0, -70.0])

    def rz(a):
        return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])

    def ry(a):
        return np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])

    expected = rz(rot) @ ry(tilt) @ rz(psi)
    np.testing.assert_allclose(rotation_from_euler(np.array([[30.0, 50.0, -70.0]]))[0], expected, atol=1e-12)


def test_euler_round_trip_including_the_poles():
    random = random_rotations(np.random.default_rng(0), 200)
    poles = rotation_from_euler(np.array([[20.0, 0.0, 35.0], [20.0, 180.0, 35.0], [0.0, 0.0, 0.0]]))
    rotation = np.concatenate([random, poles])
    # near a pole the angles are ill-conditioned: a rounding of 1e-16 moves them by its square root
    np.testing.assert_allclose(rotation_from_euler(euler_from_rotation(rotation)), rotation, atol=1e-7)


def test_rotation_vectors_round_trip():
    rotation = random_rotations(np.random.default_rng(1), 50)
    vector = rotation_vector_from_rotation(rotation)
    np.testing.assert_allclose(rotation_from_rotation_vector(vector), rotation, atol=1e-12)


def test_random_rotations_are_uniform():
    rotation = random_rotations(np.random.default_rng(2), 20_000)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-12)
    # the rotation angle w of uniform rotations has density (1 - cos w) / pi: mean pi / 2 + 2 / pi
    angle = Rotation.from_matrix(rotation).magnitude()
    assert abs(angle.mean() - (np.pi / 2 + 2 / np.pi)) < 0.02
    # the view direction is uniform on the sphere: its z has variance 1/3
    assert abs(rotation[:, 2, 2].var() - 1 / 3) < 0.01


def test_angular_distance():
    a = rotation_from_euler(np.array([[10.0, 20.0, 30.0]]))
    b = rotation_from_euler(np.array([[10.0, 20.0, 75.0]]))
    np.testing.assert_allclose(angular_distance_degrees(a, b), 45.0, atol=1e-9)


def test_quaternions_of_rotations_are_those_of_scipy(rng):
    """In single precision to the bit: what is kept of a pose does not depend on who converted it."""
    everywhere = random_rotations(rng, 20_000)
    near = Rotation.from_rotvec(rng.normal(0, 1e-3, (500, 3))).as_matrix()
    half_turns = Rotation.from_rotvec(np.pi * np.eye(3)).as_matrix()
    rotation = np.concatenate([everywhere, near, half_turns, np.eye(3)[None]]).astype(np.float32)
    found = quaternion_from_rotation(rotation)
    expected = Rotation.from_matrix(rotation.astype(np.float64)).as_quat(scalar_first=True)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
    assert quaternion_from_rotation(rotation[:0]).shape == (0, 4)
