"""The Fourier points of an image that the likelihood is summed over.

A real image is known from half its plane; the points are kx > 0, or kx = 0 and ky > 0, with
0 < |k| <= k_max. They are stored row by row inside each band, so that kernels walk runs of
consecutive kx and shift phases need no table look-up a point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HalfPlanePoints:
    """Half-plane points of all shells up to ``k_max``.

    Attributes
    ----------
    k_max : int, shells
    kx, ky : ndarray, (n_points,) float32, Fourier pixels
    shell : ndarray, (n_points,) int32
        Nearest integer radius.
    runs : ndarray, (n_runs, 4) int32
        start, count, first kx, ky of each run of consecutive kx.
    """

    k_max: int
    kx: NDArray[np.float32]
    ky: NDArray[np.float32]
    shell: NDArray[np.int32]
    runs: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.kx)


@lru_cache(maxsize=16)
def half_plane_points(k_max: int) -> HalfPlanePoints:
    """Return the half-plane points with 0 < |k| <= k_max, row by row."""
    ky, kx = np.mgrid[-k_max : k_max + 1, 0 : k_max + 1]
    radius2 = kx**2 + ky**2
    keep = (radius2 > 0) & (radius2 <= k_max**2) & ((kx > 0) | (ky > 0))
    runs = []
    start = 0
    for row in range(2 * k_max + 1):
        columns = np.flatnonzero(keep[row])
        if len(columns):
            runs.append((start, len(columns), columns[0], row - k_max))
            start += len(columns)
    kx_kept, ky_kept = kx[keep], ky[keep]
    return HalfPlanePoints(
        k_max=k_max,
        kx=kx_kept.astype(np.float32),
        ky=ky_kept.astype(np.float32),
        shell=np.rint(np.sqrt(radius2[keep])).astype(np.int32),
        runs=np.array(runs, np.int32).reshape(-1, 4),
    )


def points_within(points: HalfPlanePoints, k_max: int) -> tuple[HalfPlanePoints, NDArray[np.intp]]:
    """Return the half-plane points of a narrower band, and where they stand among ``points``.

    Parameters
    ----------
    points : HalfPlanePoints
    k_max : int, shells
        At most that of ``points``.
    """
    # both are row by row: leaving out keeps the order
    return half_plane_points(k_max), np.flatnonzero(points.kx**2 + points.ky**2 <= k_max**2)
