"""Fewer voxels, the same density: cutting away high frequencies."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray


def fourier_crop(volume: NDArray[np.float32], box_size: int) -> NDArray[np.float32]:
    """Resample a volume to a smaller box of the same extent.

    Parameters
    ----------
    volume : ndarray, (n, n, n) float32
        n even, origin at voxel n / 2.
    box_size : int
        Even, at most n.

    Returns
    -------
    ndarray, (box_size, box_size, box_size) float32
        The same density with everything from the new Nyquist frequency on left out; the origin is at
        ``box_size / 2`` and a voxel is n / ``box_size`` times as large.

    Raises
    ------
    ValueError
        An odd box, a larger one, or no cube.
    """
    n = volume.shape[-1]
    if volume.shape != (n, n, n) or n % 2 or box_size % 2 or not 0 < box_size <= n:
        raise ValueError(f"expected an even cube and an even box of at most its side, found {volume.shape}, {box_size}")
    if box_size == n:
        return volume
    half = box_size // 2
    # the new Nyquist planes stay zero: of each pair of them, cutting would leave only one
    kept = np.r_[0:half, n - half + 1 : n]
    place = np.r_[0:half, box_size - half + 1 : box_size]
    transform = scipy.fft.rfftn(volume)
    small = np.zeros((box_size, box_size, half + 1), transform.dtype)
    small[np.ix_(place, place, np.arange(half))] = transform[np.ix_(kept, kept, np.arange(half))]
    resampled: NDArray[np.float32] = scipy.fft.irfftn(small, s=(box_size,) * 3)
    resampled *= (box_size / n) ** 3
    return resampled.astype(np.float32, copy=False)
