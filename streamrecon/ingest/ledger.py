"""The ledger: what was seen, what is ready, which batch each particle stands in, and what was set aside.

One SQLite file on a local disk; every change of several rows is one transaction, durable when it returns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import msgspec

from streamrecon.errors import StateError
from streamrecon.ingest.ledger_batches import BatchLedger
from streamrecon.ingest.ledger_contents import ContentLedger
from streamrecon.ingest.ledger_schema import (
    Access,
    FileRecord,
    LedgerCounts,
    LedgerDatabase,
    QuarantineEntry,
    RetryRequest,
    Sampling,
)
from streamrecon.transport.table_wire import ParticleRow

LEDGER_NAME = "ledger.sqlite"


def session_in(folder: Path) -> str:
    """Return the session of the ledger in a folder, "" if there is none that can be read."""
    try:
        with Ledger(folder / LEDGER_NAME, access="read") as ledger:
            return ledger.session
    except StateError:
        return ""


class Ledger:
    """The session's memory; one writer, any number of readers.

    Parameters
    ----------
    path : Path
        Usually ``output_dir / LEDGER_NAME``.
    session_name : str
    access : {"own", "share", "read"}
        "read" for `streamrecon status`, "share" for `streamrecon quarantine`, both also while ingest runs.

    Raises
    ------
    StateError
        As in `LedgerDatabase`.

    Attributes
    ----------
    path : Path
    batches : BatchLedger
    contents : ContentLedger
    session : str
        Made up with the ledger; a worker's checkpoint of another session does not fit.
    """

    def __init__(self, path: Path, session_name: str = "", *, access: Access = "own") -> None:
        self.path = path
        self._database = LedgerDatabase(path, session_name, access=access)
        self._connection = self._database.connection
        self.batches = BatchLedger(self._database)
        self.contents = ContentLedger(self._database)
        self.session = self._database.meta("session") or ""
        self.session_name = self._database.meta("session_name") or ""

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Several changes, all or nothing."""
        return self._database.transaction()

    # Files

    def put_stack(self, record: FileRecord) -> None:
        """Note where a stack stands; size, mtime and sections stay those of when it was last ready."""
        self._connection.execute(
            "INSERT INTO stacks VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
            " state = excluded.state, reason = excluded.reason, changed_at = excluded.changed_at,"
            " size = coalesce(excluded.size, size), mtime_ns = coalesce(excluded.mtime_ns, mtime_ns),"
            " box_size = coalesce(excluded.box_size, box_size),"
            " sections = coalesce(excluded.sections, sections)",
            (
                record.name,
                record.state,
                record.size,
                record.mtime_ns,
                record.box_size,
                record.count,
                record.reason,
                time.time(),
            ),
        )

    def put_manifest(self, record: FileRecord) -> None:
        """Note where a manifest stands; size, mtime and rows stay those of when it was last read."""
        self._connection.execute(
            "INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
            " state = excluded.state, reason = excluded.reason, changed_at = excluded.changed_at,"
            " size = coalesce(excluded.size, size), mtime_ns = coalesce(excluded.mtime_ns, mtime_ns),"
            " rows = coalesce(excluded.rows, rows)",
            (
                record.name,
                record.state,
                record.size,
                record.mtime_ns,
                record.count,
                record.reason,
                time.time(),
            ),
        )

    def forget_file(self, name: str) -> None:
        """Drop a file that is gone and that nothing names; its particles stay."""
        self._connection.execute("DELETE FROM stacks WHERE name = ?", (name,))
        self._connection.execute("DELETE FROM manifests WHERE name = ?", (name,))

    def stacks(self, state: str | None = None) -> list[FileRecord]:
        """Return the stacks, of one state if given."""
        rows = self._connection.execute(
            "SELECT name, state, size, mtime_ns, sections, box_size, reason, changed_at FROM stacks"
            " WHERE ?1 IS NULL OR state = ?1 ORDER BY name",
            (state,),
        )
        return [FileRecord(*row) for row in rows]

    def manifests(self, state: str | None = None) -> list[FileRecord]:
        """Return the manifests, of one state if given."""
        rows = self._connection.execute(
            "SELECT name, state, size, mtime_ns, rows, NULL, reason, changed_at FROM manifests"
            " WHERE ?1 IS NULL OR state = ?1 ORDER BY name",
            (state,),
        )
        return [FileRecord(*row) for row in rows]

    def good_files(self, most: int) -> list[str]:
        """Return as many names of followed stacks that were ready once; those that still are, and the latest, first."""
        rows = self._connection.execute(
            "SELECT name FROM stacks WHERE sections IS NOT NULL ORDER BY state = 'ready' DESC, changed_at DESC LIMIT ?",
            (most,),
        )
        return [name for (name,) in rows]

    def stack_signature(self, name: str) -> tuple[int, int] | None:
        """Return (size, mtime_ns) of a stack as it was when it was last ready."""
        row = self._connection.execute(
            "SELECT size, mtime_ns FROM stacks WHERE name = ? AND sections IS NOT NULL", (name,)
        ).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    def sections_as_read(self, name: str, size: int, mtime_ns: int) -> int:
        """Return how many images a stack holds, if that is known without reading it: it is as when it was last ready.

        0 if it is not; also if it was set aside or put in doubt since, or an older ledger does not tell its images.
        """
        row = self._connection.execute(
            "SELECT content, sections FROM stacks JOIN files USING (name) WHERE name = ? AND size = ? AND mtime_ns = ?"
            " AND NOT EXISTS (SELECT 1 FROM quarantine WHERE path = name AND identity = '')",
            (name, size, mtime_ns),
        ).fetchone()
        return 0 if row is None or self.contents.undigested(row[0]) else int(row[1])

    def doubt(self, name: str) -> None:
        """Forget when a stack was changed: it is read before it is taken for what it was, also after a restart."""
        self._connection.execute("UPDATE stacks SET mtime_ns = -1 WHERE name = ? AND mtime_ns NOT NULL", (name,))

    def sampling(self) -> Sampling | None:
        """Return the session's box and pixel size, set by its first ready stack."""
        text = self._database.meta("sampling")
        return None if text is None else msgspec.json.decode(text, type=Sampling)

    def put_sampling(self, sampling: Sampling) -> None:
        """Set the session's box and pixel size."""
        self._database.put_meta("sampling", msgspec.json.encode(sampling).decode())

    # Particles

    def add_particle(self, row: ParticleRow, bad: tuple[str, str] | None = None) -> int | None:
        """Add one particle, set aside for a (kind, reason) if given; return its number, None if its identity is taken.

        In the caller's transaction.
        """
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO particles (identity, stack, stack_index, state, ready_at, row)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                row.identity,
                row.stack_name,
                row.stack_index,
                "ready" if bad is None else "quarantined",
                time.time(),
                msgspec.json.encode(row),
            ),
        )
        if cursor.rowcount == 0:
            return None
        number = cursor.lastrowid
        if bad is not None:
            self.quarantine(row.stack_name, *bad, identity=row.identity)
        return number

    # Quarantine

    def quarantine(self, path: str, kind: str, reason: str, *, identity: str = "") -> bool:
        """Set a file aside, or one particle of it; return False if it was, for the same reason."""
        known = self._connection.execute(
            "SELECT 1 FROM quarantine WHERE path = ? AND identity = ? AND kind = ? AND reason = ?",
            (path, identity, kind, reason),
        ).fetchone()
        if known is not None:
            return False
        self._connection.execute(
            "INSERT OR REPLACE INTO quarantine (path, identity, kind, reason, at) VALUES (?, ?, ?, ?, ?)",
            (path, identity, kind, reason, time.time()),
        )
        return True

    def pardon(self, path: str) -> None:
        """Take a file out of quarantine; particles of it that were set aside stay there."""
        self._connection.execute("DELETE FROM quarantine WHERE path = ? AND identity = ''", (path,))

    def release(self, path: str, identity: str = "") -> list[ParticleRow]:
        """Give a file, or one particle of it, another chance.

        Returns
        -------
        list of ParticleRow
            Of the particles that had been set aside and are no longer in the ledger: one for each file and section in
            which their images lie.
        """
        with self.transaction():
            self._connection.execute(
                "DELETE FROM quarantine WHERE path = ?1 AND (?2 = '' OR identity = ?2)", (path, identity)
            )
            if not identity:
                self.doubt(path)  # it is looked at, whatever comes between
            return self._take_out("stack = ?1 AND (?2 = '' OR identity = ?2)", (path, identity))

    def release_content(self, number: int) -> list[ParticleRow]:
        """Give all particles of a content that had been set aside another chance; as `release`."""
        with self.transaction():
            return self._take_out("id IN (SELECT particle FROM places WHERE content = ?1)", (number,))

    def release_particle(self, number: int) -> list[ParticleRow]:
        """Forget a particle that had been set aside; as `release`."""
        return self._take_out("id = ?1", (number,))

    def release_particles(self, numbers: Sequence[int]) -> list[ParticleRow]:
        """Forget some hundred particles that had been set aside; as `release`, and at the cost of one."""
        with self.transaction():
            return self._take_out(f"id IN ({', '.join('?' * len(numbers))})", tuple(numbers))

    def _take_out(self, which: str, parameters: tuple[object, ...]) -> list[ParticleRow]:
        which = f"state = 'quarantined' AND {which}"
        rows = self._connection.execute(
            "SELECT coalesce(name, stack), coalesce(section, stack_index), row FROM particles"
            f" LEFT JOIN places ON particle = id LEFT JOIN files USING (content) WHERE {which} ORDER BY id",
            parameters,
        ).fetchall()
        self._connection.execute(
            f"DELETE FROM quarantine WHERE identity IN (SELECT identity FROM particles WHERE {which})", parameters
        )
        self._connection.execute(f"DELETE FROM particles WHERE {which}", parameters)
        return [
            msgspec.structs.replace(
                msgspec.json.decode(row, type=ParticleRow), stack_name=name, stack_index=int(section)
            )
            for name, section, row in rows
        ]

    def quarantined(self) -> list[QuarantineEntry]:
        """Return what was set aside, oldest first, dismissed or not."""
        rows = self._connection.execute(
            "SELECT path, identity, kind, reason, at, dismissed_at FROM quarantine ORDER BY id"
        )
        return [QuarantineEntry(*row) for row in rows]

    def open_kinds(self) -> dict[str, int]:
        """Return how many files and particles of each kind of error wait for a person."""
        rows = self._connection.execute(
            "SELECT kind, count(*) FROM quarantine WHERE dismissed_at IS NULL GROUP BY kind"
        )
        return {kind: int(n) for kind, n in rows}

    def dismiss(self, entries: Iterable[tuple[str, str]]) -> int:
        """Mark (path, identity) as seen to by a person; return how many were open.

        The entry stays, with the time. If the file fails in another way later, it is open again.
        """
        now = time.time()
        with self.transaction():
            return sum(
                self._connection.execute(
                    "UPDATE quarantine SET dismissed_at = ? WHERE path = ? AND identity = ? AND dismissed_at IS NULL",
                    (now, path, identity),
                ).rowcount
                for path, identity in entries
            )

    def ask_retry(self, entries: Iterable[tuple[str, str]]) -> None:
        """Leave word for ingest, which may be running, to look at (path, identity) again."""
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO requests (path, identity, at) VALUES (?, ?, ?)",
                [(path, identity, time.time()) for path, identity in entries],
            )

    def retry_requests(self) -> list[RetryRequest]:
        """Return what people have asked for and ingest has not done yet."""
        return [
            RetryRequest(*row)
            for row in self._connection.execute("SELECT id, path, identity FROM requests ORDER BY id")
        ]

    def finish_request(self, request: RetryRequest) -> None:
        """Forget a request that is done."""
        self._connection.execute("DELETE FROM requests WHERE id = ?", (request.number,))

    # Status

    def counts(self, *, files: bool = True) -> LedgerCounts:
        """Return how many of everything are in each state; of stacks, manifests and copies if asked for, file by file.

        Notes
        -----
        Ingest asks every second: what is said of particles and batches has indices and tables that stay small.
        """

        def by_state(query: str) -> dict[str, int]:
            return {state: int(n) for state, n in self._connection.execute(query)}

        def copies() -> int:
            query = "SELECT count(*) FROM files JOIN stacks USING (name) WHERE copy_of NOT NULL AND state = 'ready'"
            return int(self._connection.execute(query).fetchone()[0])

        batches = by_state("SELECT state, count(*) FROM batches GROUP BY state")
        in_batches = by_state("SELECT state, sum(n) FROM batches GROUP BY state")
        loose = by_state(
            "SELECT 'ready', count(*) FROM particles WHERE state = 'ready' UNION ALL"
            " SELECT 'quarantined', count(*) FROM quarantine WHERE identity != ''"
        )
        set_aside = by_state(
            "SELECT iif(dismissed_at IS NULL, 'open', 'dismissed'), count(*) FROM quarantine GROUP BY 1"
        )
        return LedgerCounts(
            stacks=by_state("SELECT state, count(*) FROM stacks GROUP BY state") if files else {},
            manifests=by_state("SELECT state, count(*) FROM manifests GROUP BY state") if files else {},
            batches=batches,
            particles={
                "ready": loose["ready"],
                "queued": in_batches.get("queued", 0) + in_batches.get("leased", 0),
                "folded": in_batches.get("folded", 0),
                "quarantined": loose["quarantined"],
            },
            quarantine={"open": set_aside.get("open", 0), "dismissed": set_aside.get("dismissed", 0)},
            copies=copies() if files else 0,
        )

    def oldest_unfolded_at(self) -> float | None:
        """Return the Unix time at which the oldest particle that is not folded became ready."""
        row = self._connection.execute(
            "SELECT min(at) FROM ("
            " SELECT at FROM (SELECT ready_at AS at FROM particles WHERE state = 'ready' ORDER BY id LIMIT 1)"
            " UNION ALL SELECT oldest_at FROM batches WHERE state IN ('queued', 'leased'))"
        ).fetchone()
        return None if row[0] is None else float(row[0])
