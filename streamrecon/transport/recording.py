"""A stream in a file: append-only records of whole messages with the times they arrived.

The file is the line ``streamrecon recording 1`` and then, for each message, little-endian: ``SREC``; CRC-32 of
the rest of the record (u32); arrival in microseconds since 1970 (u64); number of frames (u8); the length of each
(u64); the frames. A record that was cut short, by a crash or a full disk, ends the reading, not the file: opened
again to append, the file is cut back to its last whole record.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from streamrecon.errors import IngestError, StateError, UnsupportedFormat
from streamrecon.transport.headers import MAX_ARRAY_BYTES, MAX_HEADER_BYTES

VERSION = 1
_MAGIC = b"streamrecon recording "
_FIRST_LINE = _MAGIC + b"%d\n" % VERSION
_START = struct.Struct("<4sI")
_FIXED = struct.Struct("<QB")
_MARK = b"SREC"
_MAX_FRAMES = 3
# a kill loses nothing that was written; a power cut at most what came since the last sync
_SYNC_BYTES = 64 << 20


@dataclass(frozen=True)
class Record:
    """One message as it arrived; ``arrived`` in Unix seconds, to the microsecond."""

    arrived: float
    frames: tuple[bytes, ...]


class RecordingWriter:
    """Append messages to a recording.

    Parameters
    ----------
    path : Path
        Made if it is not there; gone on with if it is a recording.
    max_bytes : int
        The file never gets larger.

    Raises
    ------
    UnsupportedFormat
        The file is there and is no recording of this version.
    StateError
        It cannot be written.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        whole = end_of_whole_records(path) if path.exists() and path.stat().st_size else 0
        self._unsynced = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if whole else "wb", buffering=0)
            self._file.truncate(whole)
            self._file.seek(whole)
            self.n_bytes = whole
            if not whole:
                self._write(_FIRST_LINE)
        except OSError as error:
            raise StateError(f"{path}: cannot be written ({error.strerror}); choose another path") from error

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def append(self, record: Record) -> bool:
        """Append a message; return False, with nothing written, if the file would get too large.

        Raises
        ------
        StateError
            The disk is full, or gone; what was written before holds.
        """
        body = b"".join(
            (
                _FIXED.pack(round(record.arrived * 1e6), len(record.frames)),
                *(struct.pack("<Q", len(frame)) for frame in record.frames),
                *record.frames,
            )
        )
        if self.n_bytes + _START.size + len(body) > self._max_bytes:
            return False
        try:
            self._write(_START.pack(_MARK, zlib.crc32(body)) + body)
            if self._unsynced >= _SYNC_BYTES:
                self._sync()
        except OSError as error:
            raise StateError(
                f"{self.path}: cannot be written ({error.strerror}); free space; what was recorded can be replayed"
            ) from error
        return True

    def close(self) -> None:
        """Make it durable and close it."""
        if not self._file.closed:
            self._sync()
            self._file.close()

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.n_bytes += len(data)
        self._unsynced += len(data)

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._unsynced = 0


def read_recording(path: Path) -> Iterator[Record]:
    """Yield the whole records of a recording, in order.

    Raises
    ------
    UnsupportedFormat
        No recording, or one of another version.
    IngestError
        It cannot be read.
    """
    try:
        with path.open("rb") as file:
            _check_first_line(path, file)
            while (record := _read_record(file)) is not None:
                yield record
    except OSError as error:
        raise IngestError(f"{path}: cannot be read ({error.strerror}); expected a recording") from error


def end_of_whole_records(path: Path) -> int:
    """Return where the last whole record ends, in bytes; raises as `read_recording`."""
    with path.open("rb") as file:
        _check_first_line(path, file)
        end = file.tell()
        while _read_record(file) is not None:
            end = file.tell()
        return end


def _check_first_line(path: Path, file: BinaryIO) -> None:
    line = file.readline(64)
    if not line.startswith(_MAGIC):
        raise UnsupportedFormat(f"{path}: expected a recording, found a file that begins with {line[:24]!r}")
    if line != _FIRST_LINE:
        found = line[len(_MAGIC) :].strip().decode("latin-1")
        raise UnsupportedFormat(
            f"{path}: expected a recording of version {VERSION}, found {found!r}; "
            "use the release of streamrecon that wrote it"
        )


def _read_record(file: BinaryIO) -> Record | None:
    """Return the next record, None at the end or where the file stops being one."""
    start = file.read(_START.size)
    if len(start) < _START.size:
        return None
    mark, crc = _START.unpack(start)
    fixed = file.read(_FIXED.size)
    if mark != _MARK or len(fixed) < _FIXED.size:
        return None
    microseconds, n_frames = _FIXED.unpack(fixed)
    if not 2 <= n_frames <= _MAX_FRAMES:
        return None
    packed = file.read(8 * n_frames)
    if len(packed) < 8 * n_frames:
        return None
    lengths = struct.unpack(f"<{n_frames}Q", packed)
    if max(lengths[:2]) > MAX_HEADER_BYTES or max(lengths) > MAX_ARRAY_BYTES:
        return None
    frames = _read_frames(file, lengths)
    if frames is None:
        return None
    found = zlib.crc32(fixed + packed)
    for frame in frames:
        found = zlib.crc32(frame, found)
    return Record(microseconds / 1e6, frames) if found == crc else None


def _read_frames(file: BinaryIO, lengths: Sequence[int]) -> tuple[bytes, ...] | None:
    left = os.fstat(file.fileno()).st_size - file.tell()
    if sum(lengths) > left:  # a damaged length asks for no memory
        return None
    frames = tuple(file.read(n) for n in lengths)
    return frames if all(len(f) == n for f, n in zip(frames, lengths, strict=True)) else None
