"""The posterior over the cells of the global search: its size, its spread, draws from it.

The log-likelihood ratio of a cell is put together from four correlation planes (4, J, n * S * D): with
A = cos.IrPr, B = cos.IiPi, C = sin.IrPi, D = sin.IiPr summed over angular frequency, a direction at psi and
-psi and its antipode at psi and -psi ("variants" 0 to 3) are
A + B - C + D, A + B + C - D, A - B + C + D, A - B - C - D, each less the direction's power term.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from streamrecon.compute.cpu_kernels.simd import exp_fast

_ZERO = np.float32(0.0)
HISTOGRAM_BINS = 4096
HISTOGRAM_SCALE = 64.0  # bin = scale * sqrt(distance below the best cell, nats)


@njit(inline="always")
def _value(planes, j, column, variant):
    a, b = planes[0, j, column], planes[1, j, column]
    c, d = planes[2, j, column], planes[3, j, column]
    if variant == 0:
        return a + b - c + d
    if variant == 1:
        return a + b + c - d
    if variant == 2:
        return a - b + c + d
    return a - b - c - d


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def best_cell(planes, power_term, n_shifts, best):
    """Highest log-likelihood ratio of each image: power_term (n, D); best (n,) float32, written."""
    n, n_directions = power_term.shape
    columns = n_shifts * n_directions
    highest = np.empty(columns, np.float32)
    for i in range(n):
        first = i * columns
        highest[:] = np.float32(-3e38)
        for j in range(planes.shape[1]):
            for c in range(columns):
                a, b = planes[0, j, first + c], planes[1, j, first + c]
                e, f = planes[2, j, first + c], planes[3, j, first + c]
                value = a + max(b + abs(e - f), abs(e + f) - b)
                highest[c] = max(highest[c], value)
        top = np.float32(-3e38)
        for s in range(n_shifts):
            for d in range(n_directions):
                top = max(top, highest[s * n_directions + d] - power_term[i, d])
        best[i] = top


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def cell_masses(planes, power_term, n_shifts, best, inverse_temperature, mass, summary):
    """Sum the tempered posterior over each (shift, direction pair), and measure its spread.

    mass (n, S * D) float32, written; summary (n, 3) float64, written: the total, the effective sample size
    (sum p)^2 / sum p^2 in cells, and the entropy in nats, all at the given temperature.
    """
    n, n_directions = power_term.shape
    columns = n_shifts * n_directions
    offset = np.empty(columns, np.float32)
    squares = np.empty(columns, np.float32)
    moments = np.empty(columns, np.float32)
    beta = np.float32(inverse_temperature)
    for i in range(n):
        first = i * columns
        for s in range(n_shifts):
            for d in range(n_directions):
                offset[s * n_directions + d] = -power_term[i, d] - best[i]
        mass[i, :] = _ZERO
        squares[:] = _ZERO
        moments[:] = _ZERO
        for j in range(planes.shape[1]):
            for c in range(columns):
                a, b = planes[0, j, first + c], planes[1, j, first + c]
                e, f = planes[2, j, first + c], planes[3, j, first + c]
                x0 = beta * (a + b - e + f + offset[c])
                x1 = beta * (a + b + e - f + offset[c])
                x2 = beta * (a - b + e + f + offset[c])
                x3 = beta * (a - b - e - f + offset[c])
                p0, p1, p2, p3 = exp_fast(x0), exp_fast(x1), exp_fast(x2), exp_fast(x3)
                mass[i, c] += p0 + p1 + p2 + p3
                squares[c] += p0 * p0 + p1 * p1 + p2 * p2 + p3 * p3
                moments[c] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
        total, square, moment = 0.0, 0.0, 0.0
        for c in range(columns):
            total += mass[i, c]
            square += squares[c]
            moment += moments[c]
        summary[i, 0] = total
        summary[i, 1] = total * total / square
        summary[i, 2] = np.log(total) - moment / total


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def cell_histogram(planes, power_term, n_shifts, best, histogram):
    """Count cells by how far they lie below the best: histogram (n, HISTOGRAM_BINS) int32, written."""
    n, n_directions = power_term.shape
    columns = n_shifts * n_directions
    last = HISTOGRAM_BINS - 1
    for i in range(n):
        histogram[i, :] = 0
        for j in range(planes.shape[1]):
            for c in range(columns):
                below = best[i] + power_term[i, c % n_directions]
                for variant in range(4):
                    x = max(below - _value(planes, j, i * columns + c, variant), _ZERO)
                    histogram[i, min(int(np.float32(HISTOGRAM_SCALE) * np.sqrt(x)), last)] += 1


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def draw_cells(
    planes, power_term, n_shifts, best, inverse_temperature, mass, summary, defensive, start, uniform,
    direction, psi_index, shift_index, density,
):  # fmt: skip
    """Draw K cells an image: systematically from the tempered posterior, the last ``defensive`` ones uniformly.

    start (n,) in [0, 1): the systematic offset; uniform (n, K, 4) in [0, 1). Written, each (n, K) int32:
    direction (antipodes from D on), psi_index (negative angles from J on), shift_index; density (n, K)
    float32: proposal density over the uniform one.
    """
    n, n_directions = power_term.shape
    n_psi = planes.shape[1]
    columns = n_shifts * n_directions
    n_draws = uniform.shape[1]
    n_systematic = n_draws - defensive
    share = np.float32(defensive) / np.float32(n_draws)
    n_cells = np.float32(4 * n_psi * columns)
    beta = np.float32(inverse_temperature)
    for i in range(n):
        step = summary[i, 0] / n_systematic
        column, passed = -1, 0.0
        for k in range(n_draws):
            if k < n_systematic:
                target = (k + start[i]) * step
                while column < columns - 1 and (column < 0 or passed <= target):
                    column += 1
                    passed += mass[i, column]
                c = column
                within = uniform[i, k, 0] * mass[i, c]
                j, variant, found = 0, 0, False
                running = _ZERO
                for jj in range(n_psi):
                    for v in range(4):
                        x = _value(planes, jj, i * columns + c, v) - power_term[i, c % n_directions] - best[i]
                        running += exp_fast(beta * x)
                        if not found and running >= within:
                            j, variant, found = jj, v, True
                if not found:  # rounding left the target just above the sum
                    j, variant = n_psi - 1, 3
            else:
                c = min(int(uniform[i, k, 0] * columns), columns - 1)
                j = min(int(uniform[i, k, 1] * n_psi), n_psi - 1)
                variant = min(int(uniform[i, k, 2] * 4), 3)
            x = _value(planes, j, i * columns + c, variant) - power_term[i, c % n_directions] - best[i]
            probability = exp_fast(beta * x) / np.float32(summary[i, 0])
            density[i, k] = (np.float32(1.0) - share) * probability * n_cells + share
            direction[i, k] = c % n_directions + (n_directions if variant >= 2 else 0)
            psi_index[i, k] = j + (n_psi if variant % 2 == 1 else 0)
            shift_index[i, k] = c // n_directions


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def poses_in_cells(
    direction, psi_index, shift_index, children, psi, psi_step, shifts, shift_step, uniform, rotation, shift
):
    """Place each drawn cell's pose uniformly inside its cell.

    children (2D, n_children, 2): (theta, phi) of sub-pixels; psi (J,) radians, positive angles; uniform
    (n, K, 4); rotation (n, K, 3, 3) and shift (n, K, 2) float32, written.
    """
    n_psi = psi.shape[0]
    half = np.float32(0.5)
    for i in range(direction.shape[0]):
        for k in range(direction.shape[1]):
            pixel = children[direction[i, k]]
            child = pixel[min(int(uniform[i, k, 0] * pixel.shape[0]), pixel.shape[0] - 1)]
            j = psi_index[i, k]
            angle = psi[j] if j < n_psi else -psi[j - n_psi]
            angle += (uniform[i, k, 1] - half) * psi_step
            ct, st = np.cos(child[0]), np.sin(child[0])
            cp, sp = np.cos(child[1]), np.sin(child[1])
            ca, sa = np.cos(angle), np.sin(angle)
            out = rotation[i, k]
            out[0, 0] = cp * ct * ca - sp * sa
            out[0, 1] = -cp * ct * sa - sp * ca
            out[0, 2] = cp * st
            out[1, 0] = sp * ct * ca + cp * sa
            out[1, 1] = -sp * ct * sa + cp * ca
            out[1, 2] = sp * st
            out[2, 0] = -st * ca
            out[2, 1] = st * sa
            out[2, 2] = ct
            shift[i, k, 0] = shifts[shift_index[i, k], 0] + (uniform[i, k, 2] - half) * shift_step
            shift[i, k, 1] = shifts[shift_index[i, k], 1] + (uniform[i, k, 3] - half) * shift_step
