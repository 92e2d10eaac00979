"""What all parts of the CUDA backend share: the device, its kernels, and device copies of the session's tables."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.device import Device
from streamrecon.compute.cuda.launch import Kernels
from streamrecon.compute.cuda.source import signatures

THREADS = 256
WARP = 32
_TABLES = 64


class Tables:
    """Device copies of host arrays that stay the same for long, found again by identity; the latest few are kept."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: OrderedDict[int, tuple[Array, Array]] = OrderedDict()

    def of(self, host: Array) -> Array:
        """Return the device's copy of a host array."""
        key = id(host)
        if key not in self._kept:
            # the host array is kept too: while it lives, no other has its identity
            self._kept[key] = (host, self._device.upload(host))
            if len(self._kept) > _TABLES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key][1]


class Base:
    """Device, kernels and tables.

    Parameters
    ----------
    device : Device
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._xp: Any = device.xp
        self._kernels = Kernels(device.function, signatures(), device.xp.ndarray)
        self._tables = Tables(device)

    def _launch(self, name: str, blocks: int | tuple[int, int], threads: int, *args: Any, shared: int = 0) -> None:
        self._kernels.launch(name, blocks, threads, args, shared)

    def _launch_each(self, name: str, size: int, *args: Any) -> None:
        """Launch one thread an element."""
        self._kernels.launch(name, -(-size // THREADS), THREADS, args)

    def _launch_warps(self, name: str, rows: int, *args: Any) -> None:
        """Launch one warp a row."""
        self._kernels.launch(name, -(-rows // (THREADS // WARP)), THREADS, args)

    def _empty(self, *shape: int, dtype: type[np.generic] = np.float32) -> Array:
        array: Array = self._xp.empty(shape, dtype)
        return array

    def _contiguous(self, array: Array) -> Array:
        """Return the array in one piece: a view of it, or a copy on the device."""
        whole: Array = self._xp.ascontiguousarray(array)
        return whole
