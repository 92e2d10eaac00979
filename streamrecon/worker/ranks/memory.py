"""Memory that several processes of one host share, and arrays in it.

Anonymous files (memfd_create): no name, no limit of /dev/shm, and nothing left behind whoever is killed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import RankLost

_ALIGNMENT = 64  # bytes
_HEADER_BYTES = 8
_LARGEST = 1 << 40  # bytes; more than any host has: a length beyond it is not one


class _ArrayWire(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    offset: int


class _Message(msgspec.Struct, frozen=True, array_like=True):
    words: dict[str, Any]
    arrays: dict[str, _ArrayWire]


class SharedMemory:
    """One process writes, others read what it says it has written; it grows as needed.

    Parameters
    ----------
    descriptor : int
        Of an anonymous file, inherited from who made it. Closed with `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls, name: str) -> SharedMemory:
        """Make some."""
        return cls(os.memfd_create(name))

    def _mapped(self, n_bytes: int) -> mmap.mmap:
        if self._map is None or len(self._map) < n_bytes:
            # an old mapping goes when the last array in it does
            self._map = mmap.mmap(self.descriptor, n_bytes)
        return self._map

    def write(self, words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> int:
        """Write plain values and arrays; return how many bytes that took.

        Raises
        ------
        RankLost
            There is no memory for it.
        """
        offset, wires, whole = 0, {}, {}
        for name, array in arrays.items():
            whole[name] = np.ascontiguousarray(array)
            wires[name] = _ArrayWire(array.dtype.str, array.shape, offset)
            offset = _aligned(offset + array.nbytes)
        header = msgspec.msgpack.encode(_Message(dict(words), wires), enc_hook=_plain)
        body = _aligned(_HEADER_BYTES + len(header))
        total = body + offset
        try:
            if os.fstat(self.descriptor).st_size < total:
                os.ftruncate(self.descriptor, total + total // 4)
            target = self._mapped(os.fstat(self.descriptor).st_size)
        except OSError as error:
            raise RankLost(f"{total} bytes of shared memory cannot be had ({error.strerror}); free memory") from error
        target[:_HEADER_BYTES] = len(header).to_bytes(_HEADER_BYTES, "little")
        target[_HEADER_BYTES : _HEADER_BYTES + len(header)] = header
        for name, array in whole.items():
            if array.size:
                place = np.frombuffer(target, array.dtype, array.size, body + wires[name].offset)
                place[:] = array.reshape(-1)
        return total

    def read(self, n_bytes: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what was written; the arrays are views, good until it is written to again.

        Raises
        ------
        RankLost
            It holds something else.
        """
        try:
            if not _HEADER_BYTES <= n_bytes <= min(os.fstat(self.descriptor).st_size, _LARGEST):
                raise ValueError(f"{n_bytes} bytes are more than there are")
            source = self._mapped(n_bytes)
            length = int.from_bytes(source[:_HEADER_BYTES], "little")
            message = msgspec.msgpack.decode(source[_HEADER_BYTES : _HEADER_BYTES + length], type=_Message)
            body = _aligned(_HEADER_BYTES + length)
            arrays = {}
            for name, wire in message.arrays.items():
                count = int(np.prod(wire.shape, dtype=np.int64))
                dtype = np.dtype(wire.dtype)
                if body + wire.offset + count * dtype.itemsize > n_bytes:
                    raise ValueError(f"array {name} reaches beyond the end")
                flat = np.frombuffer(source, dtype, count, body + wire.offset) if count else np.empty(0, dtype)
                arrays[name] = flat.reshape(wire.shape)
        except (ValueError, OSError, msgspec.DecodeError) as error:
            raise RankLost(f"what another process wrote cannot be read: {error}") from error
        return message.words, arrays

    def close(self) -> None:
        """Let go of it."""
        self._map = None
        os.close(self.descriptor)


def _plain(value: Any) -> Any:
    """Return a NumPy number as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__}: expected plain values beside arrays")


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def numbered(arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a list of arrays as `SharedMemory.write` takes it; `list(found.values())` is the list again."""
    return {str(i): array for i, array in enumerate(arrays)}
