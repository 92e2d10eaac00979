"""The CUDA backend's part for volumes: shell sums, the solution, cubes, transforms."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.base import THREADS, Base
from streamrecon.compute.profile import trilinear_profile
from streamrecon.errors import NumericalError

_SHELL_BLOCKS_PER_MULTIPROCESSOR = 4
_MAX_SHELLS = 2048  # of three doubles each in shared memory


@lru_cache(maxsize=8)
def _profile(map_box: int, pad: int) -> NDArray[np.float32]:
    return trilinear_profile(map_box, pad)  # one array for good, so that the device's copy is found again


class VolumeKernels(Base):
    """See `compute.backend.Backend` for what each method returns."""

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return a float32 array of zeros."""
        array: Array = self._xp.zeros(shape, np.float32)
        return array

    def _shell_blocks(self, size: int) -> int:
        return min(-(-size // THREADS), _SHELL_BLOCKS_PER_MULTIPROCESSOR * self._device.multiprocessors)

    def shell_weights(self, accumulator: Array, pad: int, n_shells: int) -> Array:
        """Return the mean weight of a grid point by shell, on the host."""
        _check_shells(n_shells)
        sums = self._xp.zeros((2, n_shells), np.float64)
        self._launch(
            "shell_weights", self._shell_blocks(accumulator.size // 4), THREADS, accumulator,
            accumulator.shape[2] - 1, pad, n_shells, sums[0], sums[1], shared=16 * n_shells,
        )  # fmt: skip
        total, count = self._device.download(sums)
        return np.asarray(total / np.maximum(count, 1))

    def _divide_by_profile(self, volume: Array, pad: int) -> Array:
        profile = self._tables.of(_profile(len(volume), pad))
        divided: Array = volume / (profile[:, None, None] * profile[None, :, None] * profile[None, None, :])
        return divided

    def solve(
        self, accumulators: tuple[Array, Array], pad: int, k_max: int, regulariser: Array, scale: float, map_box: int
    ) -> Array:  # fmt: skip
        """Return the real-space map of (weight + regulariser) V = numerator."""
        m = pad * map_box
        first, second = accumulators
        transform = self._empty(m, m, m // 2 + 1, dtype=np.complex64)
        shells = self._device.upload(np.asarray(regulariser, np.float32))
        self._launch_each(
            "wiener_to_rfft", transform.size, first, second, first.shape[2] - 1, pad, pad * k_max, shells, scale, m,
            transform,
        )  # fmt: skip
        padded = self._xp.fft.irfftn(transform, s=(m, m, m), axes=(0, 1, 2))
        edge = (m - map_box) // 2
        middle = slice(edge, edge + map_box)
        return self._divide_by_profile(padded[middle, middle, middle], pad)

    def cube(self, volume: Array, pad: int, radius: int) -> Array:
        """Return the half-space Fourier cube of a real-space map."""
        box = len(volume)
        m = pad * box
        edge = (m - box) // 2
        middle = slice(edge, edge + box)
        padded = self._xp.zeros((m, m, m), np.float32)
        padded[middle, middle, middle] = self._divide_by_profile(volume, pad)
        transform = self._xp.fft.rfftn(padded)
        cube = self._empty(2 * radius + 1, 2 * radius + 1, radius + 1, 2)
        self._launch_each("rfft_to_cube", cube.size // 2, transform, m, radius, cube)
        return cube

    def shell_correlation(self, volume_1: Array, volume_2: Array, n_shells: int) -> NDArray[np.float32]:
        """Return the Fourier shell correlation of two real-space maps, on the host."""
        _check_shells(n_shells)
        first, second = self.rfftn(volume_1), self.rfftn(volume_2)
        sums = self._xp.zeros((3, n_shells), np.float64)
        self._launch(
            "shell_products", self._shell_blocks(first.size), THREADS, first, second, len(volume_1), n_shells, sums,
            shared=24 * n_shells,
        )  # fmt: skip
        cross, power_1, power_2 = self._device.download(sums)
        product = np.sqrt(power_1 * power_2)
        fsc = np.divide(cross, product, out=np.zeros_like(cross), where=product > 0)
        return np.asarray(np.clip(fsc, -1.0, 1.0), np.float32)

    def shrink(self, volume: Array, threshold: float, *, non_negative: bool) -> Array:
        """Return a map drawn towards zero by a threshold."""
        xp, least = self._xp, np.float32(threshold)
        if non_negative:
            drawn: Array = xp.maximum(volume - least, 0)
        else:
            drawn = xp.sign(volume) * xp.maximum(abs(volume) - least, 0)
        return drawn

    def rfftn(self, volume: Array) -> Array:
        """Return the forward transform of a real-space map."""
        transform: Array = self._xp.fft.rfftn(volume)
        return transform

    def irfftn(self, transform: Array, box_size: int) -> Array:
        """Return the real-space map of a transform."""
        volume: Array = self._xp.fft.irfftn(transform, s=(box_size,) * 3, axes=(0, 1, 2))
        return volume


def _check_shells(n_shells: int) -> None:
    if n_shells > _MAX_SHELLS:
        raise NumericalError(f"{n_shells} shells: the CUDA backend takes {_MAX_SHELLS} at most; crop the images")
