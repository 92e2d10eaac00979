"""What an error of SQLite means for the session: wait for room, or call a person."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from streamrecon.errors import LedgerCorrupt, StateError, StateUnwritable

# The low byte of an extended result code is the primary one: https://www.sqlite.org/rescode.html
_PRIMARY = 0xFF
_UNWRITABLE = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_NOMEM,
    }
)
_HEADER_BYTES = 100
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def ledger_error(path: Path, error: sqlite3.Error) -> StateError:
    """Return the error to raise in place of SQLite's.

    Parameters
    ----------
    path : Path
        The ledger.
    error : sqlite3.Error

    Returns
    -------
    StateUnwritable
        The disk is full, gone or read-only: what was committed is safe, and waiting may help.
    LedgerCorrupt
        The file was cut or altered.
    StateError
        Anything else.
    """
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & _PRIMARY
    if primary in _UNWRITABLE:
        return StateUnwritable(
            f"{path}: expected to write to the ledger, SQLite says {error}; free space, or mend the disk or its "
            "permissions: what is in the ledger is safe, and ingest goes on by itself"
        )
    if primary in _CORRUPT:
        return _corrupt(path, f"SQLite says {error}")
    return StateError(
        f"{path}: expected a streamrecon ledger, SQLite says {error}; set another session.output_dir to start anew"
    )


def check_whole(path: Path, *, has_wal: bool) -> None:
    """Raise LedgerCorrupt if a ledger was cut inside its last page, which SQLite would only find on reading that page.

    Parameters
    ----------
    path : Path
        May be missing.
    has_wal : bool
        A write-ahead log lies beside it; it may complete the file, and SQLite looks after it.

    Notes
    -----
    SQLite writes whole pages and has their size at offset 16 of the header, big-endian, 1 for 65536:
    https://www.sqlite.org/fileformat.html
    """
    if has_wal or not path.is_file():
        return
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    size = path.stat().st_size
    page = int.from_bytes(header[16:18], "big")
    page = 65536 if page == 1 else page
    if size > 0 and (len(header) < _HEADER_BYTES or page == 0 or size % page):
        raise _corrupt(path, f"found {size} bytes, no multiple of its pages of {page}")


def _corrupt(path: Path, found: str) -> LedgerCorrupt:
    return LedgerCorrupt(
        f"{path}: expected a streamrecon ledger, {found}; the file was cut or altered. Restore it from a copy, or "
        "start anew with another session.output_dir: what was folded stands in poses.rows and in the checkpoints, "
        "and these fit no other ledger"
    )
