"""Sending arrays to the device while it computes: pinned buffers, a copy stream, and the events that order them.

A copy from ordinary memory makes the host wait; one from pinned memory on a stream of its own does not. Two pinned
buffers and two buffers on the device take turns: while the kernels of one piece of a batch run, the next piece is
already on its way. The order that makes this right:

    host fills pinned[i]         after the copy that used it last      (event copied[i], the host waits)
    copy pinned[i] -> staged[i]  after the last reader of staged[i]    (event consumed[i], the copy stream waits)
    staged[i] -> a new array     after that copy                       (event copied[i], the compute stream waits)

The new array belongs to the compute stream alone, so that the memory pool, which reuses memory in stream order, may
take it back without asking.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_SLOTS = 2


class Event(Protocol):
    """A point in a stream's work."""

    def synchronize(self) -> None:
        """Make the host wait for it."""


class Stream(Protocol):
    """Work that the device does in order."""

    def record(self) -> Event:
        """Return the point reached when everything asked for so far is done."""

    def wait_event(self, event: Event) -> None:
        """Make what is asked for from now on wait for a point in another stream."""


class Streams(Protocol):
    """What an uploader needs of a device."""

    compute: Stream
    copy: Stream

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory."""

    def staging(self, n_bytes: int) -> Any:
        """Return device memory that no stream has used before."""

    def copy_in(self, staged: Any, pinned: NDArray[np.uint8]) -> None:
        """Queue a copy to the device on the copy stream."""

    def take_out(self, staged: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Queue, on the compute stream, a copy of the first bytes of ``staged`` into a new array; return that."""


class Uploader:
    """Sends host arrays to the device without making the host wait."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._pinned: list[NDArray[np.uint8] | None] = [None] * _SLOTS
        self._staged: list[Any] = [None] * _SLOTS
        self._copied: list[Event | None] = [None] * _SLOTS
        self._consumed: list[Event | None] = [None] * _SLOTS
        self._turn = 0

    def upload(self, host: NDArray[Any]) -> Any:
        """Return a device array of the same shape, type and values; later changes of ``host`` do not matter."""
        streams, slot = self._streams, self._turn
        self._turn = (slot + 1) % _SLOTS
        source = np.ascontiguousarray(host)
        last_copy, last_reader = self._copied[slot], self._consumed[slot]
        if last_copy is not None:
            last_copy.synchronize()
        pinned = self._pinned[slot]
        if pinned is None or pinned.nbytes < source.nbytes:
            if last_reader is not None:
                last_reader.synchronize()  # the old staging buffer goes back to the pool only when nobody reads it
                last_reader = None
            size = 1 << max(12, (source.nbytes - 1).bit_length())
            pinned = self._pinned[slot] = streams.pinned(size)
            self._staged[slot] = streams.staging(size)
        part = pinned[: source.nbytes]
        part[:] = source.reshape(-1).view(np.uint8)
        if last_reader is not None:
            streams.copy.wait_event(last_reader)
        streams.copy_in(self._staged[slot][: source.nbytes], part)
        copied = self._copied[slot] = streams.copy.record()
        streams.compute.wait_event(copied)
        array = streams.take_out(self._staged[slot][: source.nbytes], host.shape, host.dtype)
        self._consumed[slot] = streams.compute.record()
        return array
