"""Sums over the processes of one host that have a CUDA device each, from device to device through NCCL.

Where CuPy has no NCCL, sums go through the host: `streamrecon.worker.ranks`.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.device import Device
from streamrecon.errors import DeviceError

_HINT = "install nvidia-nccl-cu12 or nvidia-nccl-cu13, whichever CUDA is installed"


def load_nccl() -> Any | None:
    """Return CuPy's NCCL, None where its library is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sums then go through the host, and the log says so
        try:
            nccl: Any = importlib.import_module("cupy.cuda.nccl")
        except ImportError:
            return None
    return nccl if nccl.available else None


def device_address(device: Device) -> str:
    """Return where the device is on this host's bus: NCCL wants each rank to have its own. "" if it has no place."""
    number = getattr(device, "number", None)
    return "" if number is None else str(device.xp.cuda.runtime.deviceGetPCIBusId(number))


class NcclSum:
    """Adds up from device to device.

    Parameters
    ----------
    device : Device
    nccl : module
        From `load_nccl`.
    rank, size : int
    identity : bytes
        From ``nccl.get_unique_id()`` of rank 0, the same on all. Returns once all ranks have called.

    Raises
    ------
    DeviceError
        NCCL cannot connect the devices.
    """

    def __init__(self, device: Device, nccl: Any, rank: int, size: int, identity: bytes) -> None:
        self._cupy = device.xp
        self._types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        self._operation = nccl.NCCL_SUM
        try:
            self._communicator = nccl.NcclCommunicator(size, identity, rank)
        except RuntimeError as error:
            raise DeviceError(f"NCCL cannot connect the devices: {error}; NCCL_DEBUG=INFO says why, {_HINT}") from error

    def sum(self, array: Array) -> Array:
        """Return the sum of every rank's array, once it is there."""
        whole: Any = self._cupy.ascontiguousarray(array)
        out: Any = self._cupy.empty_like(whole)
        stream = self._cupy.cuda.get_current_stream()
        self._communicator.allReduce(
            whole.data.ptr, out.data.ptr, whole.size, self._types[whole.dtype.name], self._operation, stream.ptr
        )
        stream.synchronize()
        total: Array = out
        return total
