"""The CUDA backend: its parts put together, and how batches are cut into pieces that fit the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.device import Device
from streamrecon.compute.cuda.images import ImageKernels
from streamrecon.compute.cuda.poses import PoseKernels
from streamrecon.compute.cuda.search import SearchKernels
from streamrecon.compute.cuda.volumes import VolumeKernels
from streamrecon.errors import DeviceError

_Result = TypeVar("_Result")
_LARGEST_CHUNK = 512
_SEARCH_SHARE = 0.5  # of the free memory, for the piece being searched; the rest is for maps and results


class CudaBackend(ImageKernels, SearchKernels, PoseKernels, VolumeKernels):
    """The engine's kernels on a CUDA device.

    Sums by atomics come in any order: results repeat to rounding, not to the bit.

    Attributes
    ----------
    chunk_images : int
        Images that go through the search together; halved for good when the device runs out of memory.
    """

    name = "cuda"
    threads = 1
    chunk_images = _LARGEST_CHUNK
    _bytes_per_image = 0

    @property
    def device(self) -> Device:
        """Return the device."""
        return self._device

    def reserve(self, bytes_per_image: int) -> None:
        """Cut batches so that a piece fits into the memory that is free now."""
        self._bytes_per_image = max(self._bytes_per_image, bytes_per_image)
        fitting = int(_SEARCH_SHARE * self._device.free_bytes()) // max(1, self._bytes_per_image)
        self.chunk_images = max(1, min(self.chunk_images, fitting))

    def memory_bytes(self) -> tuple[int, int]:
        """Return the device's memory in use, whoever uses it, and all it has."""
        return self._device.memory_bytes()

    def run(self, function: Callable[[int, int], _Result], n: int, *, few: bool = False) -> list[_Result]:  # noqa: ARG002 # pieces are as few as they can be anyway
        """Apply ``function(start, stop)`` to pieces, one after the other; a piece that does not fit is halved.

        Raises
        ------
        DeviceError
            Not even one image fits.
        """
        results: list[_Result] = []
        start = 0
        while start < n or not results:
            stop = min(start + self.chunk_images, n)
            failure = None
            try:
                results.append(function(start, stop))
            except self._device.out_of_memory as error:
                failure = str(error)  # not the exception: it holds on to the arrays of the failed piece
            if failure is None:
                start = max(stop, 1)
                continue
            self._device.release()
            if stop - start <= 1:
                raise DeviceError(
                    f"{self._device.description}: not even one image at a time fits into its memory ({failure}); "
                    "crop or bin the images, lower engine.direction_order, or raise compute.memory_share"
                )
            self.chunk_images = (stop - start) // 2
        return results

    def run_each(self, functions: Iterable[Callable[[], _Result]]) -> list[_Result]:
        """Call functions in turn; the device works through what they ask for."""
        return [function() for function in functions]

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join arrays along an axis."""
        if len(arrays) == 1:
            return arrays[0]
        joined: Array = self._xp.concatenate(arrays, axis=axis)
        return joined

    def pick(self, array: Array, index: Array) -> Array:
        """Return ``array[i, index[i]]`` for every row i."""
        n, k = array.shape[:2]
        rows = self._xp.arange(n, dtype=np.int32) * np.int32(k) + index
        picked: Array = self._xp.take(array.reshape(n * k, *array.shape[2:]), rows, axis=0)
        return picked

    def to_host(self, array: Array) -> Array:
        """Return the array as NumPy; a NumPy array as it is."""
        on_host = isinstance(array, np.ndarray)
        return array if on_host else self._device.download(array)

    def to_device(self, array: Array) -> Array:
        """Return a NumPy array on the device; an array of the device as it is."""
        on_device = isinstance(array, self._xp.ndarray)
        return array if on_device else self._device.upload(array)
