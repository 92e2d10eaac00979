"""A `compute.cuda.device.Device` without a device: the stand-in's arrays, the kernels compiled for the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cupy
import numpy as np

from tests.gpu.shim.build import HostKernels
from tests.gpu.standin.array import MEMORY, DeviceArray, OutOfMemoryError
from tests.gpu.standin.module import StandIn


def _memory_of(value: Any) -> np.ndarray:
    if not isinstance(value, DeviceArray):
        raise TypeError(f"a {type(value).__name__} where a kernel expects the address of device memory")
    return value._inside


class StandInDevice:
    """Few multiprocessors, so that blocks go through several slices each."""

    description = "stand-in for a device"
    multiprocessors = 2
    tf32 = False
    out_of_memory = OutOfMemoryError

    def __init__(self, library: Path, source: str | None = None) -> None:
        self.xp = StandIn(cupy)
        self.kernels = HostKernels(library, _memory_of, source)
        self.released = 0

    def function(self, name: str) -> Any:
        return self.kernels.function(name)

    def upload(self, host: np.ndarray) -> Any:
        return self.xp.asarray(host)

    def download(self, array: Any) -> np.ndarray:
        return self.xp.asnumpy(array)

    def free_bytes(self) -> int:
        return 2**31 if MEMORY.limit is None else MEMORY.limit - MEMORY.used

    def memory_bytes(self) -> tuple[int, int]:
        return MEMORY.used, 2**31

    def release(self) -> None:
        self.released += 1
