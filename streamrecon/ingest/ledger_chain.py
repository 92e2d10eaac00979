"""The chain of a ledger's batches: what tells whether the batches that a worker has are those of this ledger.

A session's id does not tell it: a copy of the ledger has the same. Put back in place of a newer one, it makes batches
under numbers that were given before, of other particles.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import msgspec

# apart from the batches: these are read without their bodies, and a migration does not write the bodies anew
CHAIN = "CREATE TABLE links (batch_id INTEGER PRIMARY KEY REFERENCES batches (id), link BLOB NOT NULL);\n"
_LINK_BYTES = 16


class NamedRows(msgspec.Struct, frozen=True):
    """The columns of a batch's table that name its particles."""

    stack_names: list[str]
    stack_number: list[int]
    stack_index: list[int]

    @property
    def identities(self) -> list[str]:
        """Return the stable names of the particles, as `ParticleRow.identity` spells them."""
        names = self.stack_names
        return [f"{i + 1:06d}@{names[stack]}" for i, stack in zip(self.stack_index, self.stack_number, strict=True)]


_NAMED_ROWS = msgspec.json.Decoder(NamedRows)


def identities_of(body: bytes) -> list[str]:
    """Return the identities of a batch's particles, in order, whatever became of their stacks since."""
    return _NAMED_ROWS.decode(body).identities


class BatchChain:
    """A link for each batch; equal links at a number mean the same batches up to it, under the same numbers.

    Parameters
    ----------
    connection : sqlite3.Connection
        Of the ledger.

    Notes
    -----
    ``link(n) = BLAKE2b-128(link(m) || JSON([m, identities of n]))``, where m is the batch before n; 0, with an empty
    link, before the first. Identities never change once a batch is made: not when a stack is renamed or written anew,
    nor when the batch is withdrawn. So the chain of an old ledger can be made from its bodies, and is what it would
    have been.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def append(self, batch_id: int, identities: Sequence[str]) -> None:
        """Add the link of a batch with a higher number than all before; in the caller's transaction."""
        query = "SELECT batch_id, link FROM links ORDER BY batch_id DESC LIMIT 1"
        before, link = self._connection.execute(query).fetchone() or (0, b"")
        self._connection.execute("INSERT INTO links VALUES (?, ?)", (batch_id, _link(before, link, identities)))

    def at(self, batch_id: int) -> str:
        """Return the link of a batch in hexadecimal, "" if there is no such batch."""
        row = self._connection.execute("SELECT link FROM links WHERE batch_id = ?", (batch_id,)).fetchone()
        return "" if row is None else bytes(row[0]).hex()

    def misfit(self, last: int, tip: tuple[int, str] | None) -> str:
        """Return why a worker's batches cannot be this ledger's, "" if they may be.

        Parameters
        ----------
        last : int
            The highest number in its checkpoint, 0 without any.
        tip : (int, str) or None
            The highest number of which it knows the link, and that; None if it knows none.
        """
        known = self._connection.execute("SELECT coalesce(max(batch_id), 0) FROM links").fetchone()[0]
        last = max(last, 0 if tip is None else tip[0])
        if last > known:
            return f"expected batches up to {known}, found batch {last}"
        if tip is not None and (link := self.at(tip[0])) != tip[1]:
            return f"expected link {link or 'of no batch'} at batch {tip[0]}, found {tip[1]}"
        return ""


def link_all(connection: sqlite3.Connection) -> None:
    """Make the chain of a ledger that has batches and no links, in the caller's transaction."""
    batches = connection.execute("SELECT id, body FROM batches ORDER BY id")
    connection.executemany("INSERT INTO links VALUES (?, ?)", _chain(batches))


def _chain(batches: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    before, link = 0, b""
    for batch_id, body in batches:
        link = _link(before, link, identities_of(body))
        yield batch_id, link
        before = batch_id


def _link(before: int, link: bytes, identities: Sequence[str]) -> bytes:
    return hashlib.blake2b(link + msgspec.json.encode((before, identities)), digest_size=_LINK_BYTES).digest()
