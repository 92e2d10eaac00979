"""The cells of the global pose search: HEALPix directions, in-plane angles, shifts.

Directions come in antipodal pairs, of which the search computes one: the projection from the
antipode is the mirror image, whose angular coefficients are the complex conjugates. A direction
(theta, phi) with in-plane angle psi is the rotation Rz(phi) Ry(theta) Rz(psi).
"""

from __future__ import annotations

from dataclasses import dataclass

import healpix
import numpy as np
from numpy.typing import NDArray

_CHILD_LEVELS = 3  # 64 sub-pixels a pixel: jitter inside a cell follows the pixel's true outline


@dataclass(frozen=True)
class PoseCells:
    """Cells of equal volume that tile poses.

    Attributes
    ----------
    directions : ndarray, (2 * n_pairs, 3, 3) float32
        Rz(phi) Ry(theta); row i + n_pairs is the antipode of row i.
    children : ndarray, (2 * n_pairs, n_children, 2) float32, radians
        (theta, phi) of equal-area sub-pixels of each direction's pixel.
    n_psi : int
    shifts : ndarray, (n_shifts, 2) float32, pixels
    shift_step : float, pixels
    share : float
        Of all directions that these are: less than 1 where a symmetric map makes others equivalent to them.
    """

    directions: NDArray[np.float32]
    children: NDArray[np.float32]
    n_psi: int
    shifts: NDArray[np.float32]
    shift_step: float
    share: float = 1.0

    @property
    def n_pairs(self) -> int:
        """Antipodal pairs of directions."""
        return len(self.directions) // 2

    @property
    def n_cells(self) -> int:
        """Cells in all: directions x in-plane angles x shifts."""
        return len(self.directions) * self.n_psi * len(self.shifts)

    @property
    def rotation_half_width(self) -> float:
        """Half the width of a cell in rotation, radians (of a cube of equal volume)."""
        volume = self.share * 8 * np.pi**2 / (len(self.directions) * self.n_psi)
        return float(volume ** (1 / 3) / 2)


def _direction_rotation(theta: NDArray[np.float64], phi: NDArray[np.float64]) -> NDArray[np.float32]:
    ct, st, cp, sp = np.cos(theta), np.sin(theta), np.cos(phi), np.sin(phi)
    zero = np.zeros_like(ct)
    rows = np.stack([cp * ct, -sp, cp * st, sp * ct, cp, sp * st, -st, zero, ct], axis=-1)
    return rows.reshape(-1, 3, 3).astype(np.float32)


def shift_grid(shift_range: float, step: float) -> NDArray[np.float32]:
    """Return the points of a square grid within ``shift_range`` of zero, (n, 2) float32, pixels."""
    reach = int(np.floor(shift_range / step + 1e-6))
    axis = np.arange(-reach, reach + 1) * step
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = x**2 + y**2 <= shift_range**2 * (1 + 1e-6)
    return np.stack([x[inside], y[inside]], axis=1).astype(np.float32)


def pose_cells(direction_order: int, n_psi: int, shift_range: float, shift_step: float) -> PoseCells:
    """Tile poses.

    Parameters
    ----------
    direction_order : int, a power of two
        HEALPix n_side.
    n_psi : int, even
    shift_range, shift_step : float, pixels

    References
    ----------
    Gorski et al. 2005, ApJ 622, 759 (HEALPix; its grid is its own mirror image through the centre).
    """
    n_pixels = 12 * direction_order**2
    fine = direction_order << _CHILD_LEVELS
    n_children = 4**_CHILD_LEVELS
    # in the nested scheme a pixel's descendants are consecutive
    theta_fine, phi_fine = healpix.pix2ang(fine, np.arange(n_pixels * n_children), nest=True)
    theta, phi = healpix.pix2ang(direction_order, np.arange(n_pixels), nest=True)
    children = np.stack([theta_fine, phi_fine], axis=-1).reshape(n_pixels, n_children, 2)
    antipode = healpix.ang2pix(direction_order, np.pi - theta, (phi + np.pi) % (2 * np.pi), nest=True)
    first = np.flatnonzero(np.arange(n_pixels) < antipode)
    second_children = np.stack([np.pi - children[first, :, 0], children[first, :, 1] + np.pi], axis=-1)
    return PoseCells(
        directions=np.concatenate(
            [
                _direction_rotation(theta[first], phi[first]),
                _direction_rotation(np.pi - theta[first], phi[first] + np.pi),
            ]
        ),
        children=np.concatenate([children[first], second_children]).astype(np.float32),
        n_psi=n_psi,
        shifts=shift_grid(shift_range, shift_step),
        shift_step=float(shift_step),
    )
