"""A file that is only ever appended to or cut back, and whose writes wait in memory while the disk has no room."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from streamrecon.io import atomic

# A disk without room: it may have some again.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_BLOCK_BYTES = 1 << 20


class AppendFile:
    """Bytes on the disk, and those behind them that found no room there yet.

    Parameters
    ----------
    path : Path
        Made if it is missing, with the folder around it.

    Attributes
    ----------
    shift : int
        Where in the file the first byte that was ever appended would be: below 0 if what came first was dropped.
        Lengths and offsets count from there.
    replaced : int
        How often another file took its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.shift = self.replaced = 0
        self._descriptor = _opened(path)
        self._closed = False
        self._written = os.fstat(self._descriptor).st_size
        self._waiting = bytearray()
        self._crc32 = None if self._written else 0
        self._lock = threading.Lock()  # a checkpoint is made durable in a thread of its own

    @property
    def n_bytes(self) -> int:
        """Length, what waits included."""
        with self._lock:
            return self._written + len(self._waiting) - self.shift

    @property
    def crc32(self) -> int | None:
        """CRC-32 of all that was ever appended; None if nobody has told that of what was there at the start."""
        return self._crc32

    def append(self, data: bytes) -> int:
        """Append bytes, now or once there is room; return where they begin."""
        with self._lock:
            start = self._written + len(self._waiting) - self.shift
            self._waiting += data
            if self._crc32 is not None:
                self._crc32 = zlib.crc32(data, self._crc32)
        try:
            self.write_waiting()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
        return start

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes, on the disk or waiting for it; fewer at the end."""
        with self._lock:
            at = offset + self.shift
            stored = max(0, min(length, self._written - at))
            found = os.pread(self._descriptor, stored, at) if stored else b""
            start = max(0, at - self._written)
            return found + self._waiting[start : start + length - stored]  # bytes, as the first of both

    def write_waiting(self) -> None:
        """Write what waits.

        Raises
        ------
        OSError
            There is no room; nothing is lost meanwhile.
        """
        with self._lock:
            self._write()

    def _write(self) -> None:
        while self._waiting:
            written = os.write(self._descriptor, self._waiting)
            self._written += written
            del self._waiting[:written]  # moves nothing

    def sync(self) -> None:
        """Make everything appended so far durable.

        Raises
        ------
        OSError
            There is no room.
        """
        self.write_waiting()
        os.fsync(self._descriptor)

    def truncate(self, n_bytes: int, crc32: int) -> None:
        """Cut it back to a length that it had, and the CRC-32 that it had with it; what waits is dropped."""
        with self._lock:
            os.ftruncate(self._descriptor, n_bytes + self.shift)
            self._written, self._waiting = n_bytes + self.shift, bytearray()
            self._crc32 = crc32
        self.sync()

    def replace(self, write: Callable[[BinaryIO, int], None], shift: int) -> None:
        """Put another file in the place of this one, while others go on appending to it.

        ``write`` fills it, given how long this one is on the disk. What came meanwhile is copied behind that. Others
        wait only for the last of it and for the rename, and not for the disk. If it raises, the file that is then there
        is taken up; `replaced` tells.
        """
        with self._lock:
            copied = self._written
        temporary = atomic.temporary_beside(self.path)
        try:
            with temporary.open("xb") as out:
                write(out, copied)
                copied += self._copy(out.write, copied)
                out.flush()
                os.fsync(out.fileno())
            new = _opened(temporary)
            try:
                with self._lock:
                    self._copy(lambda block: os.write(new, block), copied)
                    temporary.replace(self.path)
                    # the descriptor of the one that is in use is never closed
                    new, self._descriptor = self._descriptor, new
                    self._written, self.shift = os.fstat(self._descriptor).st_size, shift
                    self.replaced += 1
            finally:
                os.close(new)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        atomic.sync_folder(self.path.parent)

    def _copy(self, write: Callable[[bytes], int], start: int) -> int:
        """Write what is on the disk from there on; return how many bytes that were."""
        at = start
        while block := os.pread(self._descriptor, _BLOCK_BYTES, at):
            at += write(block)
        return at - start

    def close(self) -> None:
        """Close it. What found no room is lost: no checkpoint has it."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)


def _opened(path: Path) -> int:
    # not buffered: after a failed write it has to be known which bytes are in the file
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def crc32_of(file: BinaryIO, start: int, end: int, crc32: int = 0) -> int:
    """Return the CRC-32 of a file's bytes from start to end, going on from that of what comes before them."""
    file.seek(start)
    left = end - start
    while left > 0 and (block := file.read(min(_BLOCK_BYTES, left))):
        crc32 = zlib.crc32(block, crc32)
        left -= len(block)
    return crc32
