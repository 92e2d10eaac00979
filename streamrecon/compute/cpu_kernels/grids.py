"""Between half-space cubes and the arrays of an FFT library: the Wiener division, and back."""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0.0)


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def shell_weights(accumulator, pad, total, count):
    """Sum the weight, and count grid points, of each shell: total, count (n_shells,) float64, written."""
    radius = accumulator.shape[2] - 1
    total[:] = 0.0
    count[:] = 0.0
    for iz in range(accumulator.shape[0]):
        for iy in range(accumulator.shape[1]):
            plane = (iz - radius) ** 2 + (iy - radius) ** 2
            for ix in range(accumulator.shape[2]):
                shell = int(np.sqrt(np.float32(plane + ix * ix)) / np.float32(pad) + np.float32(0.5))
                if shell < total.shape[0]:
                    total[shell] += accumulator[iz, iy, ix, 2]
                    count[shell] += 1.0


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def wiener_to_rfft(accumulator_1, accumulator_2, pad, k_max, regulariser, scale, out):
    """Solve (weight + regulariser) V = numerator on the grid and write it as the input of an inverse rfft.

    The two accumulators are added (pass the same array and scale 0.5 for one alone). regulariser (k_max + 2,)
    by shell, in units of the scaled weight. out (m, m, m // 2 + 1) complex64 with m = pad * box, written; its
    origin is moved to the middle of the box by alternating signs.
    On the plane x = 0 a point and its Friedel mate were written apart; they are joined here.
    """
    radius = accumulator_1.shape[2] - 1
    m = out.shape[0]
    reach = pad * k_max
    limit = np.float32(reach * reach)
    out[:] = 0
    for jz in range(m):
        z = jz if jz <= m // 2 else jz - m
        if abs(z) > reach:
            continue
        for jy in range(m):
            y = jy if jy <= m // 2 else jy - m
            if abs(y) > reach:
                continue
            for x in range(min(reach, m // 2) + 1):
                distance2 = np.float32(x * x + y * y + z * z)
                if distance2 > limit:
                    continue
                re = accumulator_1[z + radius, y + radius, x, 0] + accumulator_2[z + radius, y + radius, x, 0]
                im = accumulator_1[z + radius, y + radius, x, 1] + accumulator_2[z + radius, y + radius, x, 1]
                w = accumulator_1[z + radius, y + radius, x, 2] + accumulator_2[z + radius, y + radius, x, 2]
                if x == 0:
                    re += accumulator_1[radius - z, radius - y, 0, 0] + accumulator_2[radius - z, radius - y, 0, 0]
                    im -= accumulator_1[radius - z, radius - y, 0, 1] + accumulator_2[radius - z, radius - y, 0, 1]
                    w += accumulator_1[radius - z, radius - y, 0, 2] + accumulator_2[radius - z, radius - y, 0, 2]
                position = np.sqrt(distance2) / np.float32(pad)
                shell = int(position)
                fraction = position - np.float32(shell)
                r = regulariser[shell] + fraction * (regulariser[shell + 1] - regulariser[shell])
                divisor = w * scale + r
                if divisor > _ZERO:
                    sign = np.float32(1.0) if (x + y + z) % 2 == 0 else np.float32(-1.0)
                    factor = sign * scale / divisor
                    out[jz, jy, x] = np.complex64(complex(re * factor, im * factor))


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def rfft_to_cube(transform, cube):
    """Copy the centre of an rfft (origin in the middle of the box) into a half-space cube.

    transform (m, m, m // 2 + 1) complex64; cube (z, y, x, 2) float32, written; zero beyond the transform.
    """
    radius = cube.shape[2] - 1
    m = transform.shape[0]
    half = m // 2
    for iz in range(cube.shape[0]):
        z = iz - radius
        for iy in range(cube.shape[1]):
            y = iy - radius
            for x in range(cube.shape[2]):
                if abs(z) >= half or abs(y) >= half or x >= half:
                    cube[iz, iy, x, 0] = _ZERO
                    cube[iz, iy, x, 1] = _ZERO
                    continue
                value = transform[z if z >= 0 else z + m, y if y >= 0 else y + m, x]
                sign = np.float32(1.0) if (x + y + z) % 2 == 0 else np.float32(-1.0)
                cube[iz, iy, x, 0] = sign * value.real
                cube[iz, iy, x, 1] = sign * value.imag
