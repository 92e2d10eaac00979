"""The ledger's memory of what stacks hold and where they lie: a stack keeps the name under which it was first read."""

from __future__ import annotations

from dataclasses import dataclass

from streamrecon.ingest.fingerprint import Fingerprint
from streamrecon.ingest.ledger_schema import LedgerDatabase

# as many copies of one stack are looked at; a session that has more is no session
_MOST_CANDIDATES = 1000


@dataclass(frozen=True)
class Candidate:
    """A stack that once held these images: under this name its particles are in the ledger."""

    stack: str
    fingerprint: Fingerprint


class ContentLedger:
    """What each stack held when it was read, and where those lie that were renamed.

    ``stack`` is always the name under which a stack's particles are in the ledger, ``name`` the file's name now.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._connection = database.connection

    def note(self, stack: str, seen: Fingerprint) -> None:
        """Note what a stack holds; that it held something else before is not forgotten."""
        self._connection.execute(
            "INSERT INTO contents (stack, first, sample, sections, number)"
            " VALUES (?, ?, ?, ?, (SELECT coalesce(max(number), 0) + 1 FROM contents))"
            " ON CONFLICT (stack, first) DO UPDATE SET"
            " sample = excluded.sample, sections = excluded.sections, number = excluded.number",
            (stack, seen.first, seen.sample, seen.sections),
        )

    def held(self, stack: str) -> list[Fingerprint]:
        """Return what a stack has held, the latest first."""
        rows = self._connection.execute(
            "SELECT first, sample, sections FROM contents WHERE stack = ? ORDER BY number DESC", (stack,)
        )
        return [Fingerprint(*row) for row in rows]

    def candidates(self, first: bytes) -> list[Candidate]:
        """Return the stacks that have held a first section, the latest first."""
        rows = self._connection.execute(
            "SELECT stack, first, sample, sections FROM contents WHERE first = ? ORDER BY number DESC LIMIT ?",
            (first, _MOST_CANDIDATES),
        )
        return [Candidate(stack, Fingerprint(*rest)) for stack, *rest in rows]

    def name_of(self, stack: str) -> str | None:
        """Return where a stack lies now as far as is known; None if another has taken its place."""
        row = self._connection.execute("SELECT name FROM places WHERE stack = ?", (stack,)).fetchone()
        return stack if row is None else row[0]

    def stack_at(self, name: str) -> str | None:
        """Return whose particles a file's are; None if the stack that first had the name lies elsewhere."""
        row = self._connection.execute("SELECT stack FROM places WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return str(row[0])
        moved = self._connection.execute("SELECT 1 FROM places WHERE stack = ?", (name,)).fetchone()
        return name if moved is None else None

    def move(self, stack: str, name: str) -> None:
        """Note that a stack lies under another name now; what lay there before lies nowhere."""
        if name != stack and self.stack_at(name) == name and self._is_taken(name):
            self._connection.execute("INSERT OR REPLACE INTO places (stack, name) VALUES (?, NULL)", (name,))
        self._connection.execute("UPDATE places SET name = NULL WHERE name = ?", (name,))
        self._connection.execute("INSERT OR REPLACE INTO places (stack, name) VALUES (?, ?)", (stack, name))

    def new_stack(self, name: str) -> str:
        """Return what to call a new stack whose name another had that was renamed, and note where it lies."""
        number = 2
        while self._is_taken(f"{name} ({number})"):
            number += 1
        stack = f"{name} ({number})"
        self.move(stack, name)
        return stack

    def _is_taken(self, stack: str) -> bool:
        """Whether anything is known of a stack of that name."""
        row = self._connection.execute(
            "SELECT 1 FROM contents WHERE stack = ?1 UNION ALL SELECT 1 FROM particles WHERE stack = ?1"
            " UNION ALL SELECT 1 FROM places WHERE stack = ?1 LIMIT 1",
            (stack,),
        ).fetchone()
        return row is not None
