"""Projections of a density: central slices of its Fourier transform, by Kaiser-Bessel gridding.

This is on purpose another route than the engine's trilinear slices, within 0.1 % of the exact Fourier sum: an
error of the engine's interpolation must not hide in the data it is tested with.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

_PADDING = 2
_HALF_WIDTH = 2  # grid points on either side
# Beatty, Nishimura and Pauly 2005, eq. 5, for a kernel four points wide on a grid padded twice
_BETA = np.pi * np.sqrt((2 * _HALF_WIDTH / _PADDING) ** 2 * (_PADDING - 0.5) ** 2 - 0.8)
_TABLE_STEPS = 1024


class Projector:
    """Projects one volume in any direction.

    Parameters
    ----------
    volume : ndarray, (box, box, box)
        Centre at box/2.
    pixel_size_angstrom : float
    """

    def __init__(self, volume: NDArray[np.floating], pixel_size_angstrom: float) -> None:
        self.box_size = volume.shape[0]
        self._pixel_size_angstrom = pixel_size_angstrom
        self._table = _kaiser_bessel(np.linspace(0, _HALF_WIDTH, _HALF_WIDTH * _TABLE_STEPS + 1))
        self._table = np.append(self._table, 0).astype(np.float32)
        self._spectrum = _padded_spectrum(np.asarray(volume, np.float32))

    def project(
        self,
        rotation: NDArray[np.floating],
        shift_angstrom: NDArray[np.floating],
        ctf_coefficients: NDArray[np.floating] | None = None,
        *,
        envelope_b_factor: float = 0.0,
    ) -> NDArray[np.float32]:
        """Project, move, and apply the CTF.

        Parameters
        ----------
        rotation : ndarray, (n, 3, 3)
            Image frame to volume frame.
        shift_angstrom : ndarray, (n, 2), angstrom
            The particle is displaced by +(x, y) from the box centre.
        ctf_coefficients : ndarray, (n, 5), optional
            From `streamrecon.optics.ctf.ctf_coefficients`; none: C = 1.
        envelope_b_factor : float, angstrom^2
            exp(-B k^2 / 4).

        Returns
        -------
        ndarray, (n, box, box) float32
            Sums along the beam in units of the volume's voxels; frequencies |k| < Nyquist only.
        """
        n, box = len(rotation), self.box_size
        if ctf_coefficients is None:
            coefficients = np.zeros((n, 5))
            coefficients[:, 4] = np.pi / 2
        else:
            coefficients = np.asarray(ctf_coefficients, np.float64)
        half_plane = np.zeros((n, box, box // 2 + 1), np.complex64)
        frequency = 1.0 / (box * self._pixel_size_angstrom)
        # (kx, ky) in Fourier pixels: fold the frequency's unit into the coefficients once
        scale = np.array([frequency**2, frequency**2, frequency**2, frequency**4, 1.0])
        _slices(
            self._spectrum,
            self._table,
            np.ascontiguousarray(rotation, np.float64),
            np.asarray(shift_angstrom, np.float64) / self._pixel_size_angstrom,
            coefficients * scale,
            envelope_b_factor / 4 * frequency**2,
            half_plane,
        )
        return cast("NDArray[np.float32]", scipy.fft.irfft2(half_plane, s=(box, box), overwrite_x=True))


def _kaiser_bessel(distance: NDArray[np.floating]) -> NDArray[np.float64]:
    inside = np.clip(1 - (np.asarray(distance, np.float64) / _HALF_WIDTH) ** 2, 0, None)
    return np.asarray(np.i0(_BETA * np.sqrt(inside)) / np.i0(_BETA), np.float64)


def _padded_spectrum(volume: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Return the transform on the padded grid, centred, with room for the kernel on every side.

    Returns
    -------
    ndarray, (m + 2h, m + 2h, m/2 + 1 + 2h) complex64
        m = padding * box, h = the kernel's half width; entry [h + m/2, h + m/2, h] is k = 0.
    """
    box = volume.shape[0]
    m = _PADDING * box
    # Dividing by the kernel's transform undoes, in real space, what interpolating in Fourier space will do.
    position = (np.arange(box) - box // 2) / m
    steps = (np.arange(64 * _HALF_WIDTH) + 0.5) / 64
    taper = 2 / 64 * (_kaiser_bessel(steps) * np.cos(2 * np.pi * position[:, None] * steps)).sum(axis=1)
    corrected = volume / (taper[:, None, None] * taper[:, None] * taper)
    padded = np.zeros((m, m, m), np.float32)
    start = m // 2 - box // 2
    padded[(slice(start, start + box),) * 3] = corrected
    spectrum = scipy.fft.rfftn(scipy.fft.ifftshift(padded), overwrite_x=True)
    spectrum = scipy.fft.fftshift(spectrum, axes=(0, 1))
    h = _HALF_WIDTH
    # Columns beyond both ends, by Friedel's law: F(-k) = conj F(k).
    columns = [*range(h, 0, -1), *range(m // 2 - 1, m // 2 - 1 - h, -1)]
    friedel = np.roll(np.flip(spectrum[:, :, columns], (0, 1)), 1, axis=(0, 1)).conj()
    full = np.concatenate([friedel[:, :, :h], spectrum, friedel[:, :, h:]], axis=2)
    return np.ascontiguousarray(np.pad(full, ((h, h), (h, h), (0, 0)), mode="wrap"), np.complex64)


@njit(nogil=True, cache=True, fastmath=True)  # type: ignore[untyped-decorator]  # numba has no types
def _slices(
    spectrum: NDArray[np.complex64],
    table: NDArray[np.float32],
    rotation: NDArray[np.float64],
    shift_pixels: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    envelope: float,
    out: NDArray[np.complex64],
) -> None:
    """Fill out (n, box, box/2 + 1), rfft2 layout with the image's centre at box/2, for |k| < box/2."""
    n_images, box, n_columns = out.shape
    h = _HALF_WIDTH
    origin = (spectrum.shape[0] - 2 * h) // 2 + h
    weight = np.empty((3, 2 * h), np.float32)
    first = np.empty(3, np.int64)
    for i in range(n_images):
        r = rotation[i]
        c = coefficients[i]
        for row in range(box):
            ky = row if row < box // 2 else row - box
            for kx in range(n_columns):
                k2 = float(kx * kx + ky * ky)
                if k2 >= box * box / 4:
                    continue
                x = _PADDING * (r[0, 0] * kx + r[0, 1] * ky)
                y = _PADDING * (r[1, 0] * kx + r[1, 1] * ky)
                z = _PADDING * (r[2, 0] * kx + r[2, 1] * ky)
                mirrored = x < 0
                if mirrored:
                    x, y, z = -x, -y, -z
                for axis in range(3):
                    position = x if axis == 0 else (y if axis == 1 else z)
                    base = int(np.floor(position)) - h + 1
                    first[axis] = base
                    for step in range(2 * h):
                        at = abs(position - (base + step)) * _TABLE_STEPS
                        cell = int(at)
                        part = np.float32(at - cell)
                        weight[axis, step] = table[cell] + part * (table[cell + 1] - table[cell])
                real = np.float32(0)
                imaginary = np.float32(0)
                for jz in range(2 * h):
                    for jy in range(2 * h):
                        line = spectrum[origin + first[2] + jz, origin + first[1] + jy]
                        row_real = np.float32(0)
                        row_imaginary = np.float32(0)
                        for jx in range(2 * h):
                            value = line[h + first[0] + jx]
                            row_real += weight[0, jx] * value.real
                            row_imaginary += weight[0, jx] * value.imag
                        w = weight[2, jz] * weight[1, jy]
                        real += w * row_real
                        imaginary += w * row_imaginary
                if mirrored:
                    imaginary = -imaginary
                chi = c[0] * kx * kx + c[1] * ky * ky + c[2] * kx * ky + c[3] * k2 * k2 + c[4]
                factor = np.sin(chi) * np.exp(-envelope * k2)
                # the box centre at box/2 is a shift by half a box: (-1)^(kx + ky)
                angle = -2 * np.pi / box * (kx * shift_pixels[i, 0] + ky * shift_pixels[i, 1])
                if (kx + ky) % 2:
                    factor = -factor
                cosine = np.cos(angle) * factor
                sine = np.sin(angle) * factor
                out[i, row, kx] = complex(real * cosine - imaginary * sine, real * sine + imaginary * cosine)
