"""From an image's transform to what the likelihood needs: half-plane points, CTF, ring phases."""

from __future__ import annotations

import numpy as np
from numba import njit

_TWO_PI = np.float32(2 * np.pi)


@njit(nogil=True, cache=True, error_model="numpy")
def gather_half_plane(transform, runs, real, imaginary):
    """Copy the half-plane points out of ``rfft2`` output, origin moved to the box centre.

    transform (n, box, box // 2 + 1) complex64; real, imaginary (n, n_points) float32, written.
    """
    n, box = transform.shape[0], transform.shape[1]
    for i in range(n):
        for r in range(runs.shape[0]):
            start, count, kx0, ky = runs[r, 0], runs[r, 1], runs[r, 2], runs[r, 3]
            row = ky if ky >= 0 else ky + box
            for c in range(count):
                kx = kx0 + c
                value = transform[i, row, kx]
                # the transform of an image whose origin is at box // 2 (box even)
                sign = np.float32(1.0) if (kx + ky) % 2 == 0 else np.float32(-1.0)
                real[i, start + c] = sign * value.real
                imaginary[i, start + c] = sign * value.imag


@njit(nogil=True, cache=True, error_model="numpy")
def shell_power(transform, n_shells, power):
    """Mean of |F|^2 over each shell: power (n, n_shells) float32, written; DC is shell 0."""
    n, box, half = transform.shape
    count = np.zeros(n_shells, np.float32)
    for i in range(n):
        for s in range(n_shells):
            power[i, s] = np.float32(0.0)
            count[s] = np.float32(0.0)
        for row in range(box):
            ky = row if row <= box // 2 else row - box
            for kx in range(half):
                shell = int(np.sqrt(np.float32(kx * kx + ky * ky)) + np.float32(0.5))
                if shell < n_shells:
                    value = transform[i, row, kx]
                    power[i, shell] += value.real * value.real + value.imag * value.imag
                    count[shell] += np.float32(1.0)
        for s in range(n_shells):
            if count[s] > 0:
                power[i, s] /= count[s]


@njit(nogil=True, cache=True, error_model="numpy")
def ctf_at_points(coefficients, kx, ky, frequency_step, out):
    """CTF of n particles at m points given in Fourier pixels.

    coefficients (n, 5); frequency_step (n,) float32, 1/angstrom a Fourier pixel; out (n, m), written.
    """
    for i in range(coefficients.shape[0]):
        a, b, c = coefficients[i, 0], coefficients[i, 1], coefficients[i, 2]
        d, e = coefficients[i, 3], coefficients[i, 4]
        step2 = frequency_step[i] * frequency_step[i]
        for p in range(kx.shape[0]):
            x2, y2 = kx[p] * kx[p] * step2, ky[p] * ky[p] * step2
            k2 = x2 + y2
            out[i, p] = np.sin(a * x2 + b * y2 + c * kx[p] * ky[p] * step2 + d * k2 * k2 + e)


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def weight_half_plane(real, imaginary, ctf, shell, inverse_noise, cross_re, cross_im, power_weight):
    """Weigh image and slice for the likelihood.

    cross = 2 C I / sigma2 and power_weight = C^2 / sigma2, so that
    log p(I | slice) - log p(I | noise) = sum_k Re(conj(cross) S slice) - power_weight |slice|^2.
    inverse_noise (n, n_shells) float32; all others (n, n_points) float32.
    """
    for i in range(real.shape[0]):
        for p in range(real.shape[1]):
            w = inverse_noise[i, shell[p]]
            c = ctf[i, p]
            cross_re[i, p] = np.float32(2.0) * c * w * real[i, p]
            cross_im[i, p] = np.float32(2.0) * c * w * imaginary[i, p]
            power_weight[i, p] = c * c * w


@njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def shift_rings(rings_re, rings_im, ctf, ring_gain, kx, ky, shifts, box_size, out_re, out_im, ctf2):
    """Bring every ring back by every shift of the search, weighed for the likelihood.

    rings (n, R, H) float32 re, im; ctf (n, R, H); ring_gain (n, R): ring weight / sigma2;
    shifts (S, 2) float32, pixels; out (n, S, R, H) float32, written with C I exp(+2 pi i k.t / N) gain;
    ctf2 (n, R), written with gain times the ring's mean of C^2 (times H: a sum over samples).
    """
    n, n_rings, n_half = rings_re.shape
    n_shifts = shifts.shape[0]
    cosine = np.empty((n_shifts, n_half), np.float32)
    sine = np.empty((n_shifts, n_half), np.float32)
    scale = _TWO_PI / np.float32(box_size)
    for r in range(n_rings):
        for s in range(n_shifts):
            for h in range(n_half):
                phase = scale * (kx[r, h] * shifts[s, 0] + ky[r, h] * shifts[s, 1])
                cosine[s, h] = np.cos(phase)
                sine[s, h] = np.sin(phase)
        for i in range(n):
            gain = ring_gain[i, r]
            total = np.float32(0.0)
            for h in range(n_half):
                total += ctf[i, r, h] * ctf[i, r, h]
            ctf2[i, r] = gain * total
            for s in range(n_shifts):
                for h in range(n_half):
                    w = gain * ctf[i, r, h]
                    re, im = w * rings_re[i, r, h], w * rings_im[i, r, h]
                    out_re[i, s, r, h] = re * cosine[s, h] - im * sine[s, h]
                    out_im[i, s, r, h] = re * sine[s, h] + im * cosine[s, h]
