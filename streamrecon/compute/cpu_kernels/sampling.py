"""Adaptive importance sampling of poses: new samples around old ones, and the density they come from."""

from __future__ import annotations

import numpy as np
from numba import njit

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_EIGHT_PI2 = np.float32(8 * np.pi**2)
_NEGLIGIBLE = np.float32(1e-4)  # a parent below this share is dropped, from draws and density alike


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def normalise_weights(log_likelihood, density, inverse_temperature, weight, summary):
    """Self-normalised importance weights of K samples an image.

    log_likelihood, density (n, K) float32; weight (n, K), written, sums to 1. summary (n, 3) float32, written:
    log of the mean unnormalised weight (at the temperature), effective sample size, index of the sample of
    highest likelihood.
    """
    beta = np.float32(inverse_temperature)
    n, n_samples = log_likelihood.shape
    for i in range(n):
        top = np.float32(-3e38)
        best, highest = 0, np.float32(-3e38)
        for k in range(n_samples):
            value = beta * log_likelihood[i, k] - np.log(density[i, k])
            weight[i, k] = value
            top = max(top, value)
            if log_likelihood[i, k] > highest:
                best, highest = k, log_likelihood[i, k]
        total, square = _ZERO, _ZERO
        for k in range(n_samples):
            w = np.exp(weight[i, k] - top)
            weight[i, k] = w
            total += w
            square += w * w
        for k in range(n_samples):
            weight[i, k] /= total
        summary[i, 0] = top + np.log(total / np.float32(n_samples))
        summary[i, 1] = total * total / square
        summary[i, 2] = np.float32(best)


@njit(inline="always")
def _small_rotation(omega, out):
    """exp([omega]x), Rodrigues' formula."""
    x, y, z = omega[0], omega[1], omega[2]
    angle = np.sqrt(x * x + y * y + z * z)
    if angle > np.float32(1e-6):
        s = np.sin(angle) / angle
        c = (_ONE - np.cos(angle)) / (angle * angle)
    else:
        s, c = _ONE, np.float32(0.5)
    out[0, 0] = _ONE - c * (y * y + z * z)
    out[0, 1] = c * x * y - s * z
    out[0, 2] = c * x * z + s * y
    out[1, 0] = c * x * y + s * z
    out[1, 1] = _ONE - c * (x * x + z * z)
    out[1, 2] = c * y * z - s * x
    out[2, 0] = c * x * z - s * y
    out[2, 1] = c * y * z + s * x
    out[2, 2] = _ONE - c * (x * x + y * y)


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def propose_around(
    rotation, shift, weight, start, uniform, rotation_half_width, shift_half_width, shift_area,
    new_rotation, new_shift, density,
):  # fmt: skip
    """Draw new poses in boxes around resampled old ones, with the density of the whole mixture.

    rotation (n, M, 3, 3), shift (n, M, 2), weight (n, M): the old samples; start (n,), uniform (n, K, 5) in [0, 1).
    A box is |omega_x|, |omega_y|, |omega_z| <= rotation_half_width for R' = exp([omega]x) R and |dx|, |dy| <=
    shift_half_width. Written: new_rotation (n, K, 3, 3), new_shift (n, K, 2), density (n, K) over the uniform
    density on rotations x shift_area.
    Boxes, not Gaussians: where the posterior is wider than the proposal a Gaussian's thin tails would
    give single samples all the weight.
    """
    n, n_old = weight.shape
    n_new = density.shape[1]
    volume = (2 * rotation_half_width) ** 3 / _EIGHT_PI2 * (2 * shift_half_width) ** 2 / shift_area
    omega = np.empty(3, np.float32)
    turn = np.empty((3, 3), np.float32)
    hr, ht = np.float32(rotation_half_width), np.float32(shift_half_width)
    for i in range(n):
        total = _ZERO
        for m in range(n_old):
            total += weight[i, m] if weight[i, m] > _NEGLIGIBLE else _ZERO
        parent, passed = -1, _ZERO
        for k in range(n_new):
            target = (np.float32(k) + start[i]) / np.float32(n_new) * total
            while parent < n_old - 1 and (parent < 0 or passed <= target):
                parent += 1
                passed += weight[i, parent] if weight[i, parent] > _NEGLIGIBLE else _ZERO
            while weight[i, parent] <= _NEGLIGIBLE:  # rounding ran past the last share
                parent -= 1
            for a in range(3):
                omega[a] = (2 * uniform[i, k, a] - _ONE) * hr
            _small_rotation(omega, turn)
            for a in range(3):
                for b in range(3):
                    value = _ZERO
                    for c in range(3):
                        value += turn[a, c] * rotation[i, parent, c, b]
                    new_rotation[i, k, a, b] = value
            x = shift[i, parent, 0] + (2 * uniform[i, k, 3] - _ONE) * ht
            y = shift[i, parent, 1] + (2 * uniform[i, k, 4] - _ONE) * ht
            new_shift[i, k, 0] = x
            new_shift[i, k, 1] = y
            q = weight[i, parent]
            new = new_rotation[i, k]
            for m in range(n_old):
                if m == parent or weight[i, m] <= _NEGLIGIBLE:
                    continue
                if abs(x - shift[i, m, 0]) > ht or abs(y - shift[i, m, 1]) > ht:
                    continue
                old = rotation[i, m]
                trace = _ZERO
                for a in range(3):
                    for b in range(3):
                        trace += new[a, b] * old[a, b]
                if trace < _ONE:
                    continue
                # the vector of (D - D^T) / 2, D = new old^T, is omega to third order
                w0, w1, w2 = _ZERO, _ZERO, _ZERO
                for b in range(3):
                    w0 += new[2, b] * old[1, b] - new[1, b] * old[2, b]
                    w1 += new[0, b] * old[2, b] - new[2, b] * old[0, b]
                    w2 += new[1, b] * old[0, b] - new[0, b] * old[1, b]
                if max(abs(w0), abs(w1), abs(w2)) <= 2 * hr:
                    q += weight[i, m]
            density[i, k] = q / (total * volume)
