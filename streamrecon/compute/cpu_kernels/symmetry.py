"""The sums of a symmetric particle: every operator's copy of an accumulator added up."""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)


@njit(nogil=True, cache=True)
def join_mates(grid, out):
    """Copy an accumulator (z, y, x, 4) and join what its plane x = 0 holds of a point and of its Friedel mate."""
    radius = grid.shape[2] - 1
    out[:] = grid
    for iz in range(grid.shape[0]):
        for iy in range(grid.shape[1]):
            mz, my = 2 * radius - iz, 2 * radius - iy
            out[iz, iy, 0, 0] = grid[iz, iy, 0, 0] + grid[mz, my, 0, 0]
            out[iz, iy, 0, 1] = grid[iz, iy, 0, 1] - grid[mz, my, 0, 1]
            out[iz, iy, 0, 2] = grid[iz, iy, 0, 2] + grid[mz, my, 0, 2]


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def add_copies(joined, reach, turn, lag, out):
    """Add up an accumulator read at turned points: out(p) = sum_g joined(turn_g p) exp(i lag_g.p).

    joined (z, y, x, 4) float32 from `join_mates`; reach: points up to here, grid points; turn (n, 3, 3) float32 and lag
    (n, 3) float32, radians a grid point, in (x, y, z); out (z, y, x, 4) float32, written. Its plane x = 0 holds half of
    each joined point, as accumulators hold a point and its mate apart.
    """
    radius = joined.shape[2] - 1
    out[:] = _ZERO
    limit = np.float32(reach * reach)
    for iz in range(joined.shape[0]):
        z = np.float32(iz - radius)
        for iy in range(joined.shape[1]):
            y = np.float32(iy - radius)
            for ix in range(joined.shape[2]):
                x = np.float32(ix)
                if x * x + y * y + z * z > limit:
                    continue
                re_sum, im_sum, w_sum = _ZERO, _ZERO, _ZERO
                for g in range(turn.shape[0]):
                    tx = turn[g, 0, 0] * x + turn[g, 0, 1] * y + turn[g, 0, 2] * z
                    ty = turn[g, 1, 0] * x + turn[g, 1, 1] * y + turn[g, 1, 2] * z
                    tz = turn[g, 2, 0] * x + turn[g, 2, 1] * y + turn[g, 2, 2] * z
                    sign = np.float32(1.0)
                    if tx < _ZERO:
                        sign = np.float32(-1.0)
                        tx, ty, tz = -tx, -ty, -tz
                    px, py, pz = tx, ty + np.float32(radius), tz + np.float32(radius)
                    jx, jy, jz = int(px), int(py), int(pz)
                    if jx >= radius or jy < 0 or jy >= 2 * radius or jz < 0 or jz >= 2 * radius:
                        continue
                    fx, fy, fz = px - np.float32(jx), py - np.float32(jy), pz - np.float32(jz)
                    re, im, w = _ZERO, _ZERO, _ZERO
                    for dz in range(2):
                        wz = fz if dz == 1 else np.float32(1.0) - fz
                        for dy in range(2):
                            wy = wz * (fy if dy == 1 else np.float32(1.0) - fy)
                            for dx in range(2):
                                weight = wy * (fx if dx == 1 else np.float32(1.0) - fx)
                                re += weight * joined[jz + dz, jy + dy, jx + dx, 0]
                                im += weight * joined[jz + dz, jy + dy, jx + dx, 1]
                                w += weight * joined[jz + dz, jy + dy, jx + dx, 2]
                    im *= sign
                    angle = lag[g, 0] * x + lag[g, 1] * y + lag[g, 2] * z
                    c, s = np.cos(angle), np.sin(angle)
                    re_sum += re * c - im * s
                    im_sum += re * s + im * c
                    w_sum += w
                share = _HALF if ix == 0 else np.float32(1.0)
                out[iz, iy, ix, 0] = share * re_sum
                out[iz, iy, ix, 1] = share * im_sum
                out[iz, iy, ix, 2] = share * w_sum
