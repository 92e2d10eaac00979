"""The engine's `Collective` on a backend: host arrays by the link, sums by it or from device to device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.reduce import NcclSum, device_address, load_nccl
from streamrecon.errors import DeviceError
from streamrecon.worker.ranks.link import Link
from streamrecon.worker.ranks.watchdog import Watchdog


class RankCollective:
    """What one rank exchanges; see `streamrecon.reconstruct.collective.Collective`.

    Parameters
    ----------
    link : Link
    backend : Backend
        This rank's.
    """

    def __init__(self, link: Link, backend: Backend) -> None:
        self.rank, self.size = link.rank, link.size
        self._link = link
        self._backend = backend
        self._nccl: NcclSum | None = None
        self._watchdog: Watchdog | None = None

    def use_nccl(self, identity: bytes, watchdog: Watchdog | None = None) -> None:
        """Add up from device to device from now on; all ranks call it, and it returns once they have.

        Raises
        ------
        DeviceError
            NCCL cannot connect the devices.
        """
        self._watchdog = watchdog
        nccl = load_nccl()
        if nccl is None or not isinstance(self._backend, CudaBackend):
            raise DeviceError("NCCL was there a moment ago, and is not now")
        self._nccl = NcclSum(self._backend.device, nccl, self.rank, self.size, identity)

    def gather(self, arrays: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        """Return every rank's host arrays, by rank."""
        return self._link.gather(arrays)

    def sum(self, array: Array) -> Array:
        """Return the sum of every rank's array."""
        if self._nccl is None:
            return self._backend.to_device(self._link.sum(self._backend.to_host(array)))
        self._link.gather([])  # all are there: nobody who is gone already is waited for on the device
        if self._watchdog is None:
            return self._nccl.sum(array)
        with self._watchdog:
            return self._nccl.sum(array)


def nccl_address(backend: Backend) -> str:
    """Return where on this host the device is that NCCL could reach, "" if it cannot."""
    if not isinstance(backend, CudaBackend) or load_nccl() is None:
        return ""
    return device_address(backend.device)
