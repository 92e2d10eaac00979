"""Images kept small: the half-plane points of a masked image in half precision, with one exponent an image.

The exponent is a power of two, so that what half precision can hold comes back exactly: decode(encode(x)) is encoded
to the same numbers again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend

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
        scale = _power_of_two(self.exponent)
        return np.ascontiguousarray((values.astype(np.float32) * scale[:, None, None]).transpose(1, 0, 2))


def encode(
    backend: Backend, real: Array, imaginary: Array, zero: NDArray[np.floating]
) -> tuple[CompactImages, Array, Array]:
    """Encode images, and return what comes back from them as well: only the half-precision numbers leave the device.

    Parameters
    ----------
    real, imaginary : (n, n_points) float32, on the device
    zero : ndarray, (n,), on the host
        The values at k = 0.

    Returns
    -------
    CompactImages
    real, imaginary : (n, n_points) float32, on the device
        As `CompactImages.decode` gives them.
    """
    to_host, to_device = backend.to_host, backend.to_device
    largest = np.maximum(*(to_host(abs(part).max(axis=1)) for part in (real, imaginary)))
    exponent = (np.frexp(np.maximum(largest, _LEAST))[1] - _TOP).astype(np.int16)
    scale, unscale = to_device(_power_of_two(-exponent)[:, None]), to_device(_power_of_two(exponent)[:, None])
    halves = [(part * scale).astype(np.float16) for part in (real, imaginary)]
    values = np.stack([to_host(half) for half in halves], axis=1)
    real, imaginary = (half.astype(np.float32) * unscale for half in halves)
    return CompactImages(values, exponent, np.asarray(zero, np.float32)), real, imaginary


def _power_of_two(exponent: NDArray[np.integer]) -> NDArray[np.float32]:
    return np.ldexp(np.float32(1.0), exponent.astype(np.int32)).astype(np.float32)
