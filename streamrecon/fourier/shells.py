"""Shells of a Fourier volume: their indices, means over them, and the Fourier shell correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shell_index_rfft(box_size: int) -> NDArray[np.int32]:
    """Return the nearest-integer radius of each element of ``rfftn`` of a (box,)*3 volume, int32."""
    k = np.fft.fftfreq(box_size, 1 / box_size)
    kx = np.arange(box_size // 2 + 1)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kx[None, None, :] ** 2)
    return np.rint(radius).astype(np.int32)


def shell_sums(values: NDArray[np.floating], shell_index: NDArray[np.int32], n_shells: int) -> NDArray[np.float64]:
    """Sum ``values`` over shells 0..n_shells-1; what lies beyond is left out."""
    sums = np.bincount(shell_index.ravel(), weights=values.ravel(), minlength=n_shells)
    return np.asarray(sums[:n_shells], np.float64)


def fourier_shell_correlation(
    transform_1: NDArray[np.complexfloating],
    transform_2: NDArray[np.complexfloating],
    shell_index: NDArray[np.int32],
    n_shells: int,
) -> NDArray[np.float32]:
    """Correlate two transforms shell by shell.

    Parameters
    ----------
    transform_1, transform_2 : ndarray, (box, box, box // 2 + 1) complex
    shell_index : ndarray, same shape, int32

    Returns
    -------
    ndarray, (n_shells,) float32
        In [-1, 1]; 0 where a shell holds no power.

    Notes
    -----
    On an rfft grid the kx = 0 plane holds each Friedel pair twice and the rest once: the weights of
    pairs differ by a factor two there, which a correlation over whole shells does not feel beyond noise.

    References
    ----------
    Harauz and van Heel 1986, Optik 73, 146.
    """
    cross = shell_sums((transform_1 * np.conj(transform_2)).real, shell_index, n_shells)
    power_1 = shell_sums(np.abs(transform_1) ** 2, shell_index, n_shells)
    power_2 = shell_sums(np.abs(transform_2) ** 2, shell_index, n_shells)
    product = np.sqrt(power_1 * power_2)
    fsc = np.divide(cross, product, out=np.zeros_like(cross), where=product > 0)
    return np.clip(fsc, -1.0, 1.0).astype(np.float32)


def first_shell_below(fsc: NDArray[np.floating], threshold: float) -> int:
    """Return the first shell >= 1 at which ``fsc`` falls below ``threshold``; len(fsc) if it never does."""
    below = np.flatnonzero(np.asarray(fsc)[1:] < threshold)
    return int(below[0]) + 1 if len(below) else len(fsc)


def resolution_from_fsc(
    fsc: NDArray[np.floating], box_size: int, pixel_size_angstrom: float, threshold: float
) -> float:
    """Return the resolution in angstrom where ``fsc`` crosses ``threshold``, interpolated between shells.

    A curve that starts below gives the box length; one that never falls gives its last shell.
    """
    values = np.asarray(fsc, np.float64)
    shell = first_shell_below(values, threshold)
    length = box_size * pixel_size_angstrom
    if shell >= len(values):
        return length / max(1, len(values) - 1)
    if shell == 1:
        return length
    above, below = values[shell - 1], values[shell]
    crossing = shell - 1 + (above - threshold) / (above - below)
    return float(length / crossing)
