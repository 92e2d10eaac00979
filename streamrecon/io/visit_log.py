"""The newest poses of particles that were visited again, appended as they are found and compacted now and then.

A log of whole rows. Of a particle's rows that no checkpoint on the disk can go back to, only the last is kept, so that
the file grows with the particles and not with the visits.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import CheckpointCorrupt
from streamrecon.io.append_file import NO_ROOM, AppendFile, crc32_of

_HEADING = re.compile(
    rb"# compacted: (\d{20}) bytes and (\d{20}) rows were dropped of the first (\d{20}) bytes"
    rb"(?:, crc32 ([0-9a-f]{8}); of what is left ([0-9a-f]{8}); of this line [0-9a-f]{8})?\n"
)
_HEADING_BYTES = 250  # at least as long as it is
_BLOCK_BYTES = 1 << 20
_LEAST_BYTES = 1 << 20  # below this no compaction is worth its while


@dataclass(frozen=True)
class _Compacted:
    """What is not in the file any more: of the first ``through`` bytes ever appended, so many bytes and rows.

    ``crc32`` is that of the first ``through`` bytes, ``left_crc32`` of what is left of them. Earlier releases wrote
    neither: then what is found left at the start stands for all, and an alteration of before remains unseen.
    """

    dropped_bytes: int = 0
    dropped_rows: int = 0
    through: int = 0
    crc32: int | None = 0
    left_crc32: int | None = 0

    @classmethod
    def from_heading(cls, start: bytes) -> _Compacted | None:
        """Return what a file says that begins so, None if its first line is not one of ours."""
        found = _HEADING.match(start)
        if found is None:
            return None
        numbers = [int(number) for number in found.groups()[:3]]
        sums = [None if crc32 is None else int(crc32, 16) for crc32 in found.groups()[3:]]
        past = cls(*numbers, *sums)
        return past if past.heading == found[0] and past.dropped_bytes <= past.through else None

    @property
    def heading(self) -> bytes:
        """Return the file's first line; none before the first compaction."""
        if not self.through:
            return b""
        values = (self.dropped_bytes, self.dropped_rows, self.through)
        line = b"# compacted: %020d bytes and %020d rows were dropped of the first %020d bytes" % values
        if self.crc32 is None or self.left_crc32 is None:
            return line + b"\n"
        line += b", crc32 %08x; of what is left %08x" % (self.crc32, self.left_crc32)
        return line + b"; of this line %08x\n" % zlib.crc32(line)

    @property
    def shift(self) -> int:
        """Return by how much the file is longer than what was appended, less what was dropped."""
        return len(self.heading) - self.dropped_bytes


class VisitLog:
    """Rows of particles that were visited again; lengths count all that was ever appended.

    Parameters
    ----------
    path : Path
        Made if it is missing; otherwise appended to.
    least_bytes : int
        Compaction waits for so many.

    Notes
    -----
    ``dropped`` bytes were cut out of the first ``through`` ones, which the file's first line says; so what a checkpoint
    recorded as length is found again, as long as it is not below ``through``. The new file takes the old one's place by
    a rename, with everything behind ``through`` in it: whichever of the two a crash leaves behind holds the last row of
    every particle at each length from ``through`` on.

    Raises
    ------
    CheckpointCorrupt
        The first line is not one of ours.
    """

    def __init__(self, path: Path, *, least_bytes: int = _LEAST_BYTES) -> None:
        for leftover in path.parent.glob(f".{path.name}.tmp-*"):
            leftover.unlink()  # of a compaction that was cut off
        self._file = AppendFile(path)
        self._past = _Compacted()
        self._worth = least_bytes  # to compact, once so many bytes are there
        start = self._file.read(0, _HEADING_BYTES)
        if start.startswith(b"#"):
            found = _Compacted.from_heading(start)
            if found is None:
                self._file.close()
                first = start.split(b"\n")[0]
                raise CheckpointCorrupt(
                    f"{path}: expected what was dropped in its first line, found {first!r}; was it altered? Restore it "
                    "from a copy or start a new session"
                )
            self._past = found
            self._file.shift = self._past.shift

    def __enter__(self) -> VisitLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Return where it is."""
        return self._file.path

    @property
    def n_bytes(self) -> int:
        """Return the length of all that was ever appended: what a checkpoint records."""
        return self._file.n_bytes

    @property
    def crc32(self) -> int | None:
        """Return the CRC-32 of all that was ever appended, None where it is not known; a checkpoint records it."""
        return self._file.crc32

    @property
    def dropped_rows(self) -> int:
        """Return how many rows were dropped."""
        return self._past.dropped_rows

    def append(self, rows: Iterable[bytes]) -> None:
        """Append rows, now or once there is room."""
        self._file.append(b"".join(rows))

    def write_waiting(self) -> None:
        """Write what found no room, or raise OSError."""
        self._file.write_waiting()

    def sync(self) -> None:
        """Make everything appended so far durable, or raise OSError."""
        self._file.sync()

    def check(self, n_bytes: int, crc32: int | None = None) -> int:
        """Hold it against a length that it had, and the CRC-32 that it had with it; return the CRC-32.

        Raises
        ------
        CheckpointCorrupt
            It is shorter than that, was compacted beyond it, or was altered.
        """
        found = self._file.path.stat().st_size - self._past.shift
        if not self._past.through <= n_bytes <= found:
            raise CheckpointCorrupt(
                f"{self.path}: expected the {n_bytes} bytes that the checkpoint recorded, found it to go from "
                f"{self._past.through} to {found}; resume from another checkpoint or start a new session"
            )
        with self.reading() as file:
            return self._verified(file, n_bytes, crc32)

    def truncate(self, n_bytes: int, crc32: int | None = None) -> None:
        """Go back to a length that it had.

        Raises
        ------
        CheckpointCorrupt
            As `check` does.
        """
        self._file.truncate(n_bytes, self.check(n_bytes, crc32))

    def _verified(self, file: BinaryIO, n_bytes: int, crc32: int | None) -> int:
        """Return the CRC-32 of the first bytes ever appended; of those that were dropped the first line knows it."""
        past = self._past
        start, end = len(past.heading), past.through + past.shift
        left = crc32_of(file, start, end)
        found = crc32_of(file, end, n_bytes + past.shift, left if past.crc32 is None else past.crc32)
        if past.left_crc32 not in (None, left) or crc32 not in (None, found):
            raise CheckpointCorrupt(
                f"{self.path}: expected the {n_bytes} bytes that were written, found others: it was altered; resume "
                "from another checkpoint or start a new session"
            )
        return found

    def clear(self) -> None:
        """Forget everything: a session begins."""
        self._past = _Compacted()
        self._file.shift = 0
        self._file.truncate(0, 0)

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """Hold the file as it is now for `rows`, whatever takes its place meanwhile."""
        with self.path.open("rb") as file:
            yield file

    def compact(self, through: int, crc32: int | None = None) -> bool:
        """Drop rows that are not their particle's last among the first ``through`` bytes; return whether it was done.

        It is done once they are twice as long as after the last time: so each row is read a bounded number of times on
        average, and the file is at most twice as long as it need be, plus what lies behind ``through``. Memory: some 30
        bytes for each row up to there. From any thread, one at a time.

        Parameters
        ----------
        through : int
            A length that it had, durable, and that nobody will go back behind.
        crc32 : int, optional
            That it had with it: what was altered on the disk since is not written anew as if it were right.

        Raises
        ------
        CheckpointCorrupt
            It was altered; it is left as it is.
        OSError
            The new file cannot be written, and not for want of room; the old one is as it was.
        """
        past = self._past
        end = through + past.shift  # in the file
        worth = max(self._worth, 2 * (past.through - past.dropped_bytes))
        if through - past.dropped_bytes < worth or end > self._file.path.stat().st_size:
            return False
        start = len(past.heading)
        with self.reading() as file:
            before, self._worth = (
                self._worth,
                2 * (through - past.dropped_bytes),
            )  # to try again, should it come to nothing
            found = self._verified(file, through, crc32)
            latest = latest_rows(rows_of(file, start, end))
            if latest.all():
                return False
            self._worth = before
            kept_bytes = left_crc32 = 0
            for row in compress(rows_of(file, start, end), latest):
                kept_bytes, left_crc32 = kept_bytes + len(row), zlib.crc32(row, left_crc32)
            now = _Compacted(
                dropped_bytes=past.dropped_bytes + end - start - kept_bytes,
                dropped_rows=past.dropped_rows + int((~latest).sum()),
                through=through,
                crc32=found,
                left_crc32=left_crc32,
            )

            def write(out: BinaryIO, length: int) -> None:
                out.write(now.heading)
                out.writelines(compress(rows_of(file, start, end), latest))
                file.seek(end)
                while block := file.read(min(_BLOCK_BYTES, length - file.tell())):
                    out.write(block)

            replaced = self._file.replaced
            try:
                self._file.replace(write, now.shift)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
            finally:
                if self._file.replaced > replaced:
                    self._past = now
        return self._file.replaced > replaced

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def rows_of(file: BinaryIO, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield whole rows of a file between two offsets; a first line on compaction is none."""
    file.seek(start)
    at = start
    for row in file:
        at += len(row)
        # on a full disk the last row may be there in part; the rest of it waits in memory
        if not row.endswith(b"\n") or (end is not None and at > end):
            return
        if at > len(row) or not row.startswith(b"#"):
            yield row


def latest_rows(rows: Iterable[bytes]) -> NDArray[np.bool_]:
    """Return a mask over rows: True for the last one of each particle. Some 30 bytes a row."""
    hashes = np.fromiter((_particle_hash(row) for row in rows), np.uint64)
    _, from_the_end = np.unique(hashes[::-1], return_index=True)
    latest = np.zeros(len(hashes), bool)
    latest[len(hashes) - 1 - from_the_end] = True
    return latest


def _particle_hash(row: bytes) -> int:
    """Hash a row's first value, the image name; 64 bits: one collision in 10^7 sessions of 10^6 rows."""
    end = row.find(row[:1], 1) if row[:1] in (b'"', b"'") else row.find(b" ")
    return int.from_bytes(hashlib.blake2b(row[:end], digest_size=8).digest(), "little")
