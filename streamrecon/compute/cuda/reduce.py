"""Sums over the worker processes of one host, one a device: through NCCL where it is, else through the host.

Accumulators are plain sums over images. So each worker inserts its share of a mini-batch into its own, and only when
the map is solved are they added up: what is solved is what one device would have gathered, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.device import Device
from streamrecon.errors import DeviceError

_DEADLINE_SECONDS = 60.0
_NCCL_ID_BYTES = 128


def share_of(rank: int, size: int, n: int) -> slice:
    """Return which of n images a worker takes: consecutive ones, as many as the others to within one."""
    return slice(rank * n // size, (rank + 1) * n // size)


class Reducer(Protocol):
    """Adds arrays up over workers.

    Attributes
    ----------
    rank, size : int
        This worker's number, and how many there are.
    """

    rank: int
    size: int

    def sum(self, array: Array) -> Array:
        """Return the sum of every worker's array, on each; all must call it, in the same order. The input stays."""


class OneDevice:
    """No other worker: every array is its own sum."""

    rank = 0
    size = 1

    def sum(self, array: Array) -> Array:
        """Return the array itself."""
        return array


class HostReducer:
    """Adds up through the host's memory: worker 0 gathers, adds in order of rank, and hands the sum out.

    Parameters
    ----------
    device : Device
    rank : int
    peers : sequence of Connection
        Worker 0: a connection to each of the others, in their order. The others: the one to worker 0. Raw bytes only.
    """

    def __init__(self, device: Device, rank: int, size: int, peers: Sequence[Connection]) -> None:
        expected = size - 1 if rank == 0 else 1
        if len(peers) != expected:
            raise DeviceError(f"worker {rank} of {size}: found {len(peers)} connections, expected {expected}")
        self.rank, self.size = rank, size
        self._device = device
        self._peers = list(peers)

    def sum(self, array: Array) -> Array:
        """Return the sum of every worker's array."""
        total = np.ascontiguousarray(self._device.download(array))
        if self.rank == 0:
            for number, peer in enumerate(self._peers, start=1):
                total += self._receive(peer, total, f"worker {number}")
            for number, peer in enumerate(self._peers, start=1):
                _send(peer, total, f"worker {number}")
        else:
            _send(self._peers[0], total, "worker 0")
            total = self._receive(self._peers[0], total, "worker 0")
        return self._device.upload(total)

    def _receive(self, peer: Connection, like: NDArray[Any], who: str) -> NDArray[Any]:
        found = np.empty_like(like)
        try:
            if not peer.poll(_DEADLINE_SECONDS):
                raise DeviceError(f"{who} has sent nothing for {_DEADLINE_SECONDS:g} s; see its log, then start again")
            n_bytes = len(data := peer.recv_bytes(maxlength=like.nbytes))
        except (EOFError, OSError) as error:
            raise DeviceError(
                f"{who} is gone, or sent more than the {like.nbytes} bytes expected ({error}); see its log"
            ) from error
        if n_bytes != like.nbytes:
            raise DeviceError(f"{who} sent {n_bytes} bytes, expected {like.nbytes}: the workers' maps differ in size")
        found.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)
        return found


def _send(peer: Connection, array: NDArray[Any], who: str) -> None:
    try:
        peer.send_bytes(array.tobytes())
    except OSError as error:
        raise DeviceError(f"{who} is gone ({error}); see its log, then start again") from error


class NcclReducer:
    """Adds up from device to device.

    Parameters
    ----------
    cupy : module
    rank, size : int
    identity : tuple of int
        From ``nccl.get_unique_id()`` of worker 0, the same on all.
    """

    def __init__(self, cupy: Any, rank: int, size: int, identity: tuple[int, ...]) -> None:
        self.rank, self.size = rank, size
        self._cupy = cupy
        nccl = cupy.cuda.nccl
        self._types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        self._operation = nccl.NCCL_SUM
        self._communicator = nccl.NcclCommunicator(size, identity, rank)

    def sum(self, array: Array) -> Array:
        """Return the sum of every worker's array."""
        whole: Any = self._cupy.ascontiguousarray(array)
        out: Any = self._cupy.empty_like(whole)
        self._communicator.allReduce(
            whole.data.ptr, out.data.ptr, whole.size, self._types[whole.dtype.name], self._operation,
            self._cupy.cuda.get_current_stream().ptr,
        )  # fmt: skip
        total: Array = out
        return total


def open_reducer(device: Device, rank: int, size: int, peers: Sequence[Connection]) -> Reducer:
    """Return the reducer for a worker: NCCL if CuPy has it, else through the host.

    Parameters
    ----------
    device : Device
    rank, size : int
    peers : sequence of Connection
        As for `HostReducer`; NCCL needs them once, to agree on its identity.
    """
    if size == 1:
        return OneDevice()
    host = HostReducer(device, rank, size, peers)
    nccl: Any = getattr(getattr(device.xp, "cuda", None), "nccl", None)
    # every worker must make the same choice: NCCL only if all have it
    vote = 1.0 if nccl is not None and nccl.available else 0.0
    votes = device.download(host.sum(device.upload(np.array([vote], np.float32))))
    if int(votes[0]) < size:
        return host
    own = np.zeros(_NCCL_ID_BYTES, np.float32)
    if rank == 0:
        own[:] = nccl.get_unique_id()
    agreed = device.download(host.sum(device.upload(own)))
    return NcclReducer(device.xp, rank, size, tuple(int(v) for v in agreed))
