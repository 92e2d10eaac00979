"""Was the ledger's file cut? SQLite would find out on reading what is missing: hours later, or never."""

from __future__ import annotations

import struct
from pathlib import Path

from streamrecon.ingest.ledger_errors import ledger_corrupt

_HEADER = struct.Struct(">16xH6xI4x60xI4x")  # page size, change counter, version-valid-for: 100 bytes
_PAGES = struct.Struct(">28xI68x")
_WAL_HEADER = struct.Struct(">8xI4xQ8x")  # page size, both salts: 32 bytes
_FRAME = struct.Struct(">IIQ8x")  # page, pages of the database after a commit (else 0), both salts: 24 bytes


def check_whole(path: Path, wal: Path) -> None:
    """Raise LedgerCorrupt if pages are missing at the end of a ledger.

    Parameters
    ----------
    path : Path
        May be missing. Nobody else may write to it meanwhile.
    wal : Path
        Its write-ahead log, which a process that was killed leaves. Pages that are missing in the file may lie there.

    Notes
    -----
    The layout of both files is that of https://www.sqlite.org/fileformat.html, sections 1.3 and 4.
    """
    if not path.is_file() or (size := path.stat().st_size) == 0:
        return
    in_wal, committed = _log(wal)
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise ledger_corrupt(path, f"found {size} bytes")
    page, changes, valid_for = _HEADER.unpack(header)
    page = 65536 if page == 1 else page
    if page == 0 or (size % page and not in_wal):
        raise ledger_corrupt(path, f"found {size} bytes, no multiple of its pages of {page}")
    # the count in the header says nothing where a program that does not know of it wrote last
    expected = committed or (_PAGES.unpack(header)[0] if changes == valid_for else 0)
    missing = set(range(size // page + 1, expected + 1)) - in_wal
    if missing:
        raise ledger_corrupt(path, f"found {size // page} pages of {page} bytes where it says {expected}")


def _log(wal: Path) -> tuple[set[int], int]:
    """Return the pages that a write-ahead log holds, and how many the database has after its last commit."""
    pages: set[int] = set()
    committed = 0
    if not wal.is_file():
        return pages, committed
    with wal.open("rb") as file:
        header = file.read(_WAL_HEADER.size)
        if len(header) < _WAL_HEADER.size:
            return pages, committed
        page, salts = _WAL_HEADER.unpack(header)
        while len(frame := file.read(_FRAME.size)) == _FRAME.size:
            number, after, salt = _FRAME.unpack(frame)
            if salt != salts:  # left over from before the log was last begun anew
                break
            pages.add(number)
            committed = after or committed
            file.seek(page, 1)
    return pages, committed
