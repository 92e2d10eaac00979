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
        return ledger_corrupt(path, f"SQLite says {error}")
    return StateError(
        f"{path}: expected a streamrecon ledger, SQLite says {error}; set another session.output_dir to start anew"
    )


def ledger_corrupt(path: Path, found: str) -> LedgerCorrupt:
    """Return the error for a ledger that was cut or altered; ``found`` says by what it shows."""
    return LedgerCorrupt(
        f"{path}: expected a streamrecon ledger, {found}; the file was cut or altered. Restore it from a copy "
        "that is as new as the checkpoints, or start anew with another session.output_dir: what was folded stands in "
        "poses.rows and in the checkpoints, and these fit no other ledger"
    )
