"""Images kept small: the half-plane points of a masked image in half precision, with one exponent an image.

The exponent is a power of two, so that what half precision can hold comes back exactly: decode(encode(x)) is encoded
to the same numbers again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TOP = 15  # values are scaled to at most 2^15; half precision ends at 65504

_LEAST = np.float32(2.0**-80)


@dataclass(frozen=True)
class CompactImages:
    """n images at the half-plane points of a band.

    Attributes
    ----------
    values : ndarray, (n, 2, n_points) float16
        Real and imaginary parts over 2^exponent.
    exponent : ndarray, (n,) int16
    zero : ndarray, (n,) float32
        The coefficient at k = 0, which the half plane leaves out: values between the points need it.
    """

    values: NDArray[np.float16]
    exponent: NDArray[np.int16]
    zero: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.exponent)

    def take(self, rows: NDArray[np.integer]) -> CompactImages:
        """Return the images of the given rows."""
        return CompactImages(self.values[rows], self.exponent[rows], self.zero[rows])

    def decode(self, columns: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """Return real and imaginary parts, (2, n, n_points) float32, at all points or at some of them."""
        values = self.values if columns is None else self.values[:, :, columns]
        scale = np.ldexp(np.float32(1.0), self.exponent.astype(np.int32)).astype(np.float32)
        return np.ascontiguousarray((values.astype(np.float32) * scale[:, None, None]).transpose(1, 0, 2))


def encode(real: NDArray[np.floating], imaginary: NDArray[np.floating], zero: NDArray[np.floating]) -> CompactImages:
    """Encode real and imaginary parts, each (n, n_points), and the values at k = 0, (n,)."""
    values = np.stack([real, imaginary], axis=1).astype(np.float32)  # (n, 2, n_points)
    largest = np.maximum(np.abs(values).max(axis=(1, 2)), _LEAST)
    exponent = (np.frexp(largest)[1] - _TOP).astype(np.int16)
    scale = np.ldexp(np.float32(1.0), -exponent.astype(np.int32)).astype(np.float32)
    half = (values * scale[:, None, None]).astype(np.float16)
    return CompactImages(half, exponent, np.asarray(zero, np.float32))
