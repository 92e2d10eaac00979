"""A map as a vector: the Fourier coefficients inside the band, each once, ordered by frequency.

The length of the vector is the map's norm (up to a factor), so that a gradient step is the same here and in real space.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamrecon.optimise.interface import Vector


class BandCoordinates:
    """Real coordinates of real maps whose transform ends at a shell.

    Parameters
    ----------
    k_max : int, shells

    Attributes
    ----------
    k_max : int
    shell : ndarray, (n,) int32
        Nearest-integer radius of each coordinate.

    Notes
    -----
    With V_k the sum over voxels of V(x) exp(-2 pi i k.x / box), x from the middle of the box, the coordinates are
    V_0 and, for half of the other k with |k| <= k_max, sqrt(2) Re V_k and sqrt(2) Im V_k. Their squares add up to
    sum_k |V_k|^2 = box^3 sum_x V(x)^2. V_k does not depend on how finely the map is sampled, and k are ordered by
    |k|, so that the vector of a narrower band is the beginning of that of a wider one.
    """

    def __init__(self, k_max: int) -> None:
        self.k_max = k_max
        axis = np.arange(-k_max, k_max + 1)
        z, y, x = np.meshgrid(axis, axis, np.arange(k_max + 1), indexing="ij")
        radius2 = x**2 + y**2 + z**2
        half = (x > 0) | ((x == 0) & (y > 0)) | ((x == 0) & (y == 0) & (z > 0))
        keep = half & (radius2 <= k_max**2)
        x, y, z, radius2 = x[keep], y[keep], z[keep], radius2[keep]
        order = np.lexsort((z, y, x, radius2))
        self._x, self._y, self._z = x[order], y[order], z[order]
        sign = 1.0 - 2.0 * ((self._x + self._y + self._z) % 2)  # maps have their origin in the middle of the box
        self._sign = sign.astype(np.float32)
        radius = np.rint(np.sqrt(radius2[order])).astype(np.int32)
        self.shell: NDArray[np.int32] = np.concatenate([np.zeros(1, np.int32), np.repeat(radius, 2)])

    def __len__(self) -> int:
        return len(self.shell)

    @property
    def frequencies(self) -> NDArray[np.int64]:
        """Return k of each coefficient but the zeroth as (x, y, z), (n // 2, 3)."""
        return np.stack([self._x, self._y, self._z], axis=1)

    def transform(self, vector: Vector, map_box: int) -> NDArray[np.complex64]:
        """Return the map's ``rfftn``, (map_box, map_box, map_box // 2 + 1); the origin is in the middle of the box."""
        out = np.zeros((map_box, map_box, map_box // 2 + 1), np.complex64)
        pairs = np.asarray(vector[1:], np.float32).reshape(-1, 2)
        values = self._sign * np.float32(np.sqrt(0.5)) * (pairs[:, 0] + np.complex64(1j) * pairs[:, 1])
        out[self._z % map_box, self._y % map_box, self._x] = values
        plane = self._x == 0  # holds both mates of each pair
        out[-self._z[plane] % map_box, -self._y[plane] % map_box, 0] = np.conj(values[plane])
        out[0, 0, 0] = vector[0]
        return out

    def vector(self, transform: NDArray[np.complexfloating]) -> NDArray[np.float32]:
        """Return the coordinates of the band's part of a map of which ``rfftn`` is given, (n,) float32."""
        map_box = len(transform)
        values = self._sign * np.float32(np.sqrt(2.0)) * transform[self._z % map_box, self._y % map_box, self._x]
        out = np.empty(len(self), np.float32)
        out[0] = transform[0, 0, 0].real
        out[1::2], out[2::2] = values.real, values.imag
        return out

    def sampled(self, values: NDArray[np.floating], pad: int) -> NDArray[np.float32]:
        """Return the values that a half-space grid has at each coordinate's frequency, (n,) float32.

        Parameters
        ----------
        values : ndarray, (z, y, x), x >= 0
            The same at k and -k; ``pad`` grid points a Fourier pixel.
        """
        radius = values.shape[2] - 1
        at = values[pad * self._z + radius, pad * self._y + radius, pad * self._x]
        return np.concatenate([values[radius, radius, :1], np.repeat(at, 2)]).astype(np.float32)

    def shell_means(self, values: Vector) -> NDArray[np.float64]:
        """Return the mean of the coordinates' values over each shell, (k_max + 1,)."""
        sums = np.bincount(self.shell, weights=values, minlength=self.k_max + 1)
        return np.asarray(sums / np.bincount(self.shell, minlength=self.k_max + 1))


@lru_cache(maxsize=8)
def band_coordinates(k_max: int) -> BandCoordinates:
    """Return the coordinates of a band; kept, as every step asks for them."""
    return BandCoordinates(k_max)
