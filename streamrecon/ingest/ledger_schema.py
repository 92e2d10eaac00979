"""The ledger's database: its tables, how it is opened, and the records that come out of it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from streamrecon.errors import CheckpointIncompatible, LedgerCorrupt, StateError, StateUnwritable
from streamrecon.ingest.filesystem import check_local
from streamrecon.ingest.ledger_chain import CHAIN
from streamrecon.ingest.ledger_errors import ledger_error
from streamrecon.ingest.ledger_migrations import CONTENTS, FILLS, MIGRATIONS, VIEWS
from streamrecon.ingest.ledger_whole import check_whole

SCHEMA_VERSION = 5
BatchState = Literal["queued", "leased", "folded", "withdrawn"]
Access = Literal["own", "share", "read"]
_BUSY_SECONDS = 10.0

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE stacks (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, size INTEGER, mtime_ns INTEGER, box_size INTEGER,
    sections INTEGER, reason TEXT NOT NULL, changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE manifests (
    name TEXT PRIMARY KEY, state TEXT NOT NULL, size INTEGER, mtime_ns INTEGER, rows INTEGER,
    reason TEXT NOT NULL, changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'leased', 'folded', 'withdrawn')),
    n INTEGER NOT NULL, worker TEXT NOT NULL DEFAULT '', body BLOB NOT NULL, oldest_at REAL NOT NULL,
    created_at REAL NOT NULL, leased_at REAL, folded_at REAL
);
CREATE INDEX batches_state ON batches (state, worker);
CREATE INDEX batches_size ON batches (state, n);
CREATE TABLE particles (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, stack TEXT NOT NULL, stack_index INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ready', 'queued', 'quarantined')), ready_at REAL NOT NULL,
    row BLOB NOT NULL, batch_id INTEGER REFERENCES batches (id),
    CHECK ((state = 'queued') = (batch_id IS NOT NULL))
);
CREATE INDEX particles_of_stack ON particles (stack, stack_index);
CREATE INDEX particles_of_batch ON particles (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX particles_ready ON particles (id) WHERE state = 'ready';
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, identity TEXT NOT NULL, kind TEXT NOT NULL,
    reason TEXT NOT NULL, at REAL NOT NULL, dismissed_at REAL, UNIQUE (path, identity)
);
CREATE TABLE requests (id INTEGER PRIMARY KEY, path TEXT NOT NULL, identity TEXT NOT NULL, at REAL NOT NULL);
"""


@dataclass(frozen=True)
class Sampling:
    """Box and pixel size of the session, and the file that set them."""

    box_size: int
    pixel_size_angstrom: float
    path: str


@dataclass(frozen=True)
class FileRecord:
    """A stack or manifest as the ledger last saw it; ``count`` is its sections or rows."""

    name: str
    state: str
    size: int | None = None
    mtime_ns: int | None = None
    count: int | None = None
    box_size: int | None = None
    reason: str = ""
    changed_at: float = 0.0


@dataclass(frozen=True)
class BatchStanding:
    """Where a batch of ``n`` particles stands, and who has it."""

    batch_id: int
    state: BatchState
    n: int
    worker: str


@dataclass(frozen=True)
class BatchRecord(BatchStanding):
    """A batch: ``body`` is the JSON of its table, the same bytes for as long as the batch lives; ``link`` its place.

    See `BatchChain`.
    """

    body: bytes
    link: str


@dataclass(frozen=True)
class QuarantineEntry:
    """A file (identity "") or one particle that was set aside; times are Unix time, None: still open."""

    path: str
    identity: str
    kind: str
    reason: str
    at: float
    dismissed_at: float | None = None


@dataclass(frozen=True)
class RetryRequest:
    """A person's wish that ingest look again at a file (identity "": at all of it) or at one particle."""

    number: int
    path: str
    identity: str


@dataclass(frozen=True)
class LedgerCounts:
    """Where everything stands.

    ``particles`` by ready, queued (leased too), folded, quarantined; ``quarantine``: files and particles set
    aside, by open and dismissed; ``copies``: stacks that hold images which another file had first.
    """

    stacks: dict[str, int]
    manifests: dict[str, int]
    batches: dict[str, int]
    particles: dict[str, int]
    quarantine: dict[str, int] = field(default_factory=dict)
    copies: int = 0


def lock_path(path: Path) -> Path:
    """Return the file that the owner of a ledger holds locked."""
    return path.with_name(path.name + ".lock")


class LedgerDatabase:
    """A connection to the ledger file; used from one thread.

    Parameters
    ----------
    path : Path
        On a local file system.
    session_name : str
        Written when the ledger is made.
    access : {"own", "share", "read"}
        The ingester owns the ledger; a program that leaves a request shares it with a running ingester; a
        program that only looks reads it.

    Raises
    ------
    NetworkFilesystem
        The path lies on another host's disk.
    StateError
        Another ingester has the ledger open.
    StateUnwritable, LedgerCorrupt
        SQLite cannot write to it, or cannot make sense of it.
    CheckpointIncompatible
        The ledger was made by a later version; or by an earlier one, and is only shared. Its owner brings it up
        to date, a reader needs nothing.
    """

    def __init__(self, path: Path, session_name: str = "", *, access: Access = "own") -> None:
        self.path = path
        self._depth = 0
        self._lock: int | None = None
        if access != "own" and not path.is_file():
            raise StateError(
                f"{path}: expected a ledger, found none; start `streamrecon run` with this configuration "
                "first, or give the configuration of a session that was started"
            )
        if access == "own":
            self._claim()
        try:
            if access == "own" or not self._wal.exists():  # one that is being written to may look cut
                check_whole(path, self._wal)
            self.connection = self._connect(access)
        except LedgerCorrupt:
            self._release()
            raise
        except sqlite3.Error as error:
            self._release()
            raise ledger_error(path, error) from error
        try:
            self._set_up(access)
            self._check_version(session_name, access)
        except sqlite3.Error as error:
            self.close()
            raise ledger_error(path, error) from error
        except StateError:
            self.close()
            raise

    def _claim(self) -> None:
        check_local(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(lock_path(self.path), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StateUnwritable(
                f"{self.path}: expected a folder to keep the ledger in, found that it cannot be made "
                f"({error.strerror}); free space, mend its permissions, or set another session.output_dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            raise StateError(
                f"{self.path}: another ingester has this ledger open; stop it, or give this one its own "
                "session.output_dir"
            ) from error

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _connect(self, access: Access) -> sqlite3.Connection:
        mode = {"own": "rwc", "share": "rw", "read": "ro"}[access]
        if access == "read" and not self._wal.exists() and not os.access(self.path.parent, os.W_OK):
            # SQLite would want to make the log's index beside it; without a log nobody writes
            mode += "&immutable=1"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)

    def _set_up(self, access: Access) -> None:
        if access != "read":
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("PRAGMA foreign_keys = ON")

    @property
    def _wal(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _check_version(self, session_name: str, access: Access) -> None:
        tables = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables == 0 and access == "own":
            with self.transaction():
                self._execute_all(_TABLES + CONTENTS + CHAIN)
                self.put_meta("schema_version", str(SCHEMA_VERSION))
                self.put_meta("session", uuid.uuid4().hex)
                self.put_meta("session_name", session_name)
        version = self.meta("schema_version")
        if access == "own":
            version = self._migrate(version)
        elif access == "read" and version in VIEWS:
            self._execute_all(VIEWS[version])
            return
        if version != str(SCHEMA_VERSION):
            remedy = (
                "start `streamrecon run` or `ingest` of this version once, which brings it up to date"
                if version in MIGRATIONS
                else "finish the session with the streamrecon that began it, or set another session.output_dir"
            )
            raise CheckpointIncompatible(
                f"{self.path}: expected ledger schema {SCHEMA_VERSION}, found {version}; {remedy}"
            )

    def _migrate(self, version: str | None) -> str | None:
        """Bring an older ledger up to date, all or nothing; return the version it is of then."""
        with self.transaction():
            while version in MIGRATIONS:
                self._execute_all(MIGRATIONS[version])
                if (fill := FILLS.get(version)) is not None:
                    fill(self.connection)
                version = str(int(version) + 1)
                self.put_meta("schema_version", version)
        return version

    def _execute_all(self, script: str) -> None:
        # not executescript(): that commits first
        for statement in filter(str.strip, script.split(";\n")):
            self.connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; may be nested, the outermost commits."""
        if self._depth == 0:
            self.connection.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            # SQLite rolls back by itself when the disk is full
            if self._depth == 0 and self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self._depth -= 1
        if self._depth == 0:
            self.connection.execute("COMMIT")

    def meta(self, key: str) -> str | None:
        """Return one of the ledger's own values."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put_meta(self, key: str, value: str) -> None:
        """Set one of the ledger's own values."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Close the file and let the next ingester have it."""
        self.connection.close()
        self._release()
