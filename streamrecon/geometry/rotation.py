"""Rotations: the one place that states their sense.

A ``rotation`` R maps vectors of the image frame into the volume frame: the Fourier coefficient of
the projection at (k_x, k_y) is the volume's at R @ (k_x, k_y, 0). Vectors are (x, y, z), arrays (z, y, x).
RELION's matrix A is R transposed, so R = Rz(rot) Ry(tilt) Rz(psi); cryoSPARC's rotation vector r gives
R = exp([r]x).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

_POLAR_STEPS = 2  # the error of single precision, 1e-7, is squared by each


def rotation_from_euler(euler_degrees: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert RELION Euler angles to rotations.

    Parameters
    ----------
    euler_degrees : ndarray, (n, 3), degrees
        rot, tilt, psi as in rlnAngleRot, rlnAngleTilt, rlnAnglePsi.

    Returns
    -------
    ndarray, (n, 3, 3) float64
        Image frame to volume frame.
    """
    matrix = Rotation.from_euler("ZYZ", np.asarray(euler_degrees, np.float64), degrees=True).as_matrix()
    return np.asarray(matrix, np.float64)


def euler_from_rotation(rotation: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert rotations (n, 3, 3) to RELION Euler angles (n, 3), degrees; inverse of `rotation_from_euler`.

    At tilt 0 or 180 only rot + psi (or rot - psi) is defined; psi is then set to 0 as in RELION's readers.
    """
    r = np.asarray(rotation, np.float64)
    tilt = np.arctan2(np.hypot(r[..., 0, 2], r[..., 1, 2]), r[..., 2, 2])
    rot = np.arctan2(r[..., 1, 2], r[..., 0, 2])
    psi = np.arctan2(r[..., 2, 1], -r[..., 2, 0])
    gimbal = np.hypot(r[..., 0, 2], r[..., 1, 2]) < 1e-6
    flat_rot = np.where(
        r[..., 2, 2] > 0, np.arctan2(r[..., 1, 0], r[..., 0, 0]), np.arctan2(-r[..., 1, 0], -r[..., 0, 0])
    )
    rot = np.where(gimbal, flat_rot, rot)
    psi = np.where(gimbal, 0.0, psi)
    return np.asarray(np.rad2deg(np.stack([rot, tilt, psi], axis=-1)), np.float64)


def rotation_from_rotation_vector(rotation_vector: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert cryoSPARC's ``alignments3D/pose`` (n, 3), radians, to rotations (n, 3, 3)."""
    matrix = Rotation.from_rotvec(np.asarray(rotation_vector, np.float64)).as_matrix()
    return np.asarray(matrix, np.float64)


def rotation_vector_from_rotation(rotation: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert rotations (n, 3, 3) to cryoSPARC's rotation vectors (n, 3), radians."""
    vector = Rotation.from_matrix(np.asarray(rotation, np.float64)).as_rotvec()
    return np.asarray(vector, np.float64)


def random_rotations(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Draw n rotations uniformly from SO(3) (normalised Gaussian quaternions)."""
    return rotation_from_quaternion(random_quaternions(rng, n))


def random_quaternions(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Draw n unit quaternions (w, x, y, z), uniform on SO(3)."""
    q = rng.standard_normal((n, 4))
    return np.asarray(q / np.linalg.norm(q, axis=1, keepdims=True), np.float64)


def rotation_from_quaternion(quaternion: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert unit quaternions (n, 4), (w, x, y, z), to rotations (n, 3, 3)."""
    q = np.asarray(quaternion, np.float64)
    return np.asarray(Rotation.from_quat(q, scalar_first=True).as_matrix(), np.float64)


def quaternion_from_rotation(rotation: NDArray[np.floating]) -> NDArray[np.float64]:
    """Convert rotations (n, 3, 3) to unit quaternions (n, 4), (w, x, y, z).

    Rotations known to single precision are not orthogonal to double precision: each is first brought to the nearest one
    that is, as SciPy's `Rotation.from_matrix` does by a singular value decomposition each. Here by Newton's iteration,
    for all together: ten times faster, and equal to the last bits.

    References
    ----------
    Higham 1986, SIAM J. Sci. Stat. Comput. 7, 1160 (polar decomposition); Shepperd 1978, J. Guid. Control 1, 223.
    """
    matrix = np.asarray(rotation, np.float64)
    for _ in range(_POLAR_STEPS):
        matrix = 0.5 * (matrix + _inverse_transposed(matrix))
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    trace = diagonal.sum(axis=1)
    # the largest of x^2, y^2, z^2, w^2 is divided by
    largest = np.column_stack([diagonal, trace]).argmax(axis=1)
    xyzw = np.empty((len(matrix), 4))
    for i in range(3):
        rows = np.flatnonzero(largest == i)
        m, j, k = matrix[rows], (i + 1) % 3, (i + 2) % 3
        xyzw[rows, i] = 1.0 - trace[rows] + 2.0 * m[:, i, i]
        xyzw[rows, j] = m[:, j, i] + m[:, i, j]
        xyzw[rows, k] = m[:, k, i] + m[:, i, k]
        xyzw[rows, 3] = m[:, k, j] - m[:, j, k]
    rows = np.flatnonzero(largest == 3)
    m = matrix[rows]
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        xyzw[rows, i] = m[:, k, j] - m[:, j, k]
    xyzw[rows, 3] = 1.0 + trace[rows]
    xyzw /= np.linalg.norm(xyzw, axis=1, keepdims=True)
    return xyzw[:, [3, 0, 1, 2]]


def _inverse_transposed(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse of each matrix (n, 3, 3), transposed: cofactors over the determinant."""
    m = [[matrix[:, i, j] for j in range(3)] for i in range(3)]
    out = np.empty_like(matrix)
    for i in range(3):
        for j in range(3):
            (p, q), (r, s) = ((i + 1) % 3, (i + 2) % 3), ((j + 1) % 3, (j + 2) % 3)
            np.subtract(m[p][r] * m[q][s], m[p][s] * m[q][r], out=out[:, i, j])
    determinant = m[0][0] * out[:, 0, 0] + m[1][0] * out[:, 1, 0] + m[2][0] * out[:, 2, 0]
    out /= determinant[:, None, None]
    return out


def angular_distance_degrees(rotation_1: NDArray[np.floating], rotation_2: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the angle of the rotation between each pair, (n,) float64, degrees."""
    trace = np.einsum("...ij,...ij->...", np.asarray(rotation_1, np.float64), rotation_2)
    return np.asarray(np.rad2deg(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0))), np.float64)
