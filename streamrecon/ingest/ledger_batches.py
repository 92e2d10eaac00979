"""The ledger's batches: made once, lent, folded, and sent again with the same content after any crash."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streamrecon.ingest.ledger_chain import BatchChain
from streamrecon.ingest.ledger_schema import BatchRecord, BatchStanding, LedgerDatabase
from streamrecon.transport.feed_schema import MAX_BATCH_ID, in_ranges
from streamrecon.transport.table_wire import ParticleRow, TableWire, table_from_rows, table_to_wire

_MOST_REFUSED = 10  # are named
_ROW_DECODER = msgspec.json.Decoder(ParticleRow)


class BatchLedger:
    """Batches of ready particles; ids ascend and are never used again.

    Attributes
    ----------
    chain : BatchChain
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database
        self._connection = database.connection
        self.chain = BatchChain(database.connection)

    def ready_rows(self, limit: int) -> list[tuple[int, ParticleRow]]:
        """Return the oldest particles that wait for a batch, with their numbers in the ledger."""
        rows = self._connection.execute(
            "SELECT id, row FROM particles WHERE state = 'ready' ORDER BY id LIMIT ?", (limit,)
        )
        return [(number, _ROW_DECODER.decode(row)) for number, row in rows]

    def create(self, rows: Sequence[tuple[int, ParticleRow]]) -> int:
        """Make a batch of particles that are ready, and return its id."""
        body = msgspec.json.encode(table_to_wire(table_from_rows([row for _, row in rows])))
        with self._database.transaction():
            cursor = self._connection.execute(
                "INSERT INTO batches (state, n, body, oldest_at, created_at) VALUES ('queued', ?, ?,"
                " (SELECT min(ready_at) FROM particles WHERE id BETWEEN ? AND ? AND state = 'ready'), ?)",
                (len(rows), body, rows[0][0], rows[-1][0], time.time()),
            )
            batch_id = int(cursor.lastrowid or 0)
            self.chain.append(batch_id, [row.identity for _, row in rows])
            self._connection.executemany(
                "UPDATE particles SET state = 'queued', batch_id = ? WHERE id = ?",
                [(batch_id, number) for number, _ in rows],
            )
        return batch_id

    def count(self, state: str) -> int:
        """Return how many batches are in a state."""
        row = self._connection.execute("SELECT count(*) FROM batches WHERE state = ?", (state,)).fetchone()
        return int(row[0])

    def get(self, batch_id: int) -> BatchRecord | None:
        """Return a batch."""
        row = self._connection.execute(
            "SELECT id, state, n, worker, body, lower(hex(link)) FROM batches JOIN links ON batch_id = id WHERE id = ?",
            (batch_id,),
        ).fetchone()
        return None if row is None else BatchRecord(*row)

    def standing(self, batch_id: int) -> BatchStanding | None:
        """Return where a batch stands, without its body."""
        row = self._connection.execute("SELECT id, state, n, worker FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return None if row is None else BatchStanding(*row)

    def lease_next(self, worker: str) -> BatchRecord | None:
        """Lend the queued batch with the lowest id to a worker."""
        with self._database.transaction():
            row = self._connection.execute(
                "SELECT id FROM batches WHERE state = 'queued' AND worker = '' ORDER BY id LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            self._connection.execute(
                "UPDATE batches SET state = 'leased', worker = ?, leased_at = ? WHERE id = ?",
                (worker, time.time(), row[0]),
            )
            return self.get(row[0])

    def leases(self) -> dict[str, list[int]]:
        """Return the ids lent to each worker."""
        leases: dict[str, list[int]] = {}
        for worker, batch_id in self._connection.execute(
            "SELECT worker, id FROM batches WHERE state = 'leased' ORDER BY id"
        ):
            leases.setdefault(worker, []).append(batch_id)
        return leases

    def requeue(self, worker: str) -> int:
        """Put everything lent to a worker back in the queue; return how many batches."""
        cursor = self._connection.execute(
            "UPDATE batches SET state = 'queued', worker = '' WHERE state = 'leased' AND worker = ?",
            (worker,),
        )
        return cursor.rowcount

    def put_back(self, batch_id: int) -> None:
        """Put a batch that is lent back in the queue."""
        self._connection.execute(
            "UPDATE batches SET state = 'queued', worker = '' WHERE state = 'leased' AND id = ?", (batch_id,)
        )

    def fold(self, batch_ids: Iterable[int], worker: str) -> tuple[list[BatchStanding], list[int]]:
        """Mark batches as folded by a worker, in its durable checkpoint.

        Returns
        -------
        folded : list of BatchStanding
            Those that were not folded before, as they were.
        refused : list of int
            Ids the ledger does not know, has withdrawn, or knows as folded by another worker.
        """
        folded: list[BatchStanding] = []
        refused: list[int] = []
        with self._database.transaction():
            for batch_id in batch_ids:
                batch = self.standing(batch_id)
                if batch is None or batch.state == "withdrawn":
                    refused.append(batch_id)
                elif batch.state == "folded":
                    if batch.worker != worker:
                        refused.append(batch_id)
                else:
                    folded.append(batch)
            self._mark_folded(folded, worker)
        return folded, refused

    def _mark_folded(self, batches: Iterable[BatchStanding], worker: str) -> None:
        self._connection.executemany(
            "UPDATE batches SET state = 'folded', worker = ?, folded_at = ? WHERE id = ?",
            [(worker, time.time(), batch.batch_id) for batch in batches],
        )

    def synchronise(
        self, worker: str, folded: Sequence[tuple[int, int]], held: Sequence[int]
    ) -> tuple[list[BatchStanding], list[int], list[int]]:
        """Make the ledger agree with what a worker says it has.

        Its checkpoint is the truth about what it folded: a batch the ledger has as folded by this worker, but
        the checkpoint has not (the worker fell back to an older one), goes back to the queue. So does every
        batch lent to it that it does not hold.

        Parameters
        ----------
        worker : str
        folded : sequence of (first, last)
            Inclusive ranges of ids in the worker's checkpoint.
        held : sequence of int
            Ids in its memory, not yet durable.

        Returns
        -------
        newly_folded : list of BatchStanding
        refused : list of int
            Ids of ``folded`` or ``held`` the worker must not have: unknown, withdrawn or another worker's. Some of
            them, if there are many.
        requeued : list of int

        Notes
        -----
        A long session has hundreds of thousands of batches, and nearly all are as both sides have them. So those are
        only counted, range by range in an index, and none of them is read.
        """
        keep = set(held)
        with self._database.transaction():
            unfolded = self._connection.execute(
                "SELECT id, state, n, worker FROM batches WHERE state IN ('queued', 'leased') ORDER BY id"
            )
            newly_folded = [b for b in (BatchStanding(*row) for row in unfolded) if in_ranges(b.batch_id, folded)]
            self._mark_folded(newly_folded, worker)
            refused = [i for first, last in folded for i in self._not_folded_by(worker, first, last)]
            requeued = [i for i in self._held_beside(worker, folded) if i not in keep]
            self._connection.executemany(
                "UPDATE batches SET state = 'queued', worker = '', folded_at = NULL WHERE id = ?",
                [(i,) for i in requeued],
            )
            for batch_id in held:
                batch = self.standing(batch_id)
                if batch is None or batch.state == "withdrawn" or batch.worker not in ("", worker):
                    refused.append(batch_id)
                elif batch.state != "folded" or not in_ranges(batch_id, folded):
                    self._connection.execute(
                        "UPDATE batches SET state = 'leased', worker = ?, leased_at = ?, folded_at = NULL WHERE id = ?",
                        (worker, time.time(), batch_id),
                    )
        return newly_folded, refused, requeued

    def _not_folded_by(self, worker: str, first: int, last: int) -> list[int]:
        """Return some of the ids in a range that a worker has not folded, if there are any."""
        (n,) = self._connection.execute(
            "SELECT count(*) FROM batches WHERE state = 'folded' AND worker = ? AND id BETWEEN ? AND ?",
            (worker, first, last),
        ).fetchone()
        if n == last - first + 1:
            return []
        others = self._connection.execute(
            "SELECT id FROM batches WHERE id BETWEEN ? AND ? AND NOT (state = 'folded' AND worker = ?)"
            " ORDER BY id LIMIT ?",
            (first, last, worker, _MOST_REFUSED),
        )
        # none that is there: then there are numbers in it that were never given
        return [i for (i,) in others] or [last]

    def _held_beside(self, worker: str, folded: Sequence[tuple[int, int]]) -> list[int]:
        """Return the ids that a worker has been lent or has folded and that are in none of the ranges."""
        leased = self._connection.execute(
            "SELECT id FROM batches WHERE state = 'leased' AND worker = ?", (worker,)
        ).fetchall()
        beside = [i for (i,) in leased if not in_ranges(i, folded)]
        firsts = [1, *(last + 1 for _, last in folded)]
        lasts = [*(first - 1 for first, _ in folded), MAX_BATCH_ID]
        for first, last in zip(firsts, lasts, strict=True):
            found = self._connection.execute(
                "SELECT id FROM batches WHERE state = 'folded' AND worker = ? AND id BETWEEN ? AND ?",
                (worker, first, last),
            )
            beside += [i for (i,) in found]
        return sorted(beside)

    def withdraw(self, batch_id: int, bad: Mapping[str, tuple[str, str]]) -> int:
        """Take back a batch that cannot be delivered; return how many of its particles are ready again.

        Parameters
        ----------
        batch_id : int
            Queued or leased, and folded nowhere.
        bad : mapping of identity to (kind, reason)
            Particles to quarantine; the others wait for a new batch.
        """
        with self._database.transaction():
            rows = self._connection.execute(
                "SELECT id, identity, stack FROM particles WHERE batch_id = ?", (batch_id,)
            ).fetchall()
            self._connection.execute("UPDATE batches SET state = 'withdrawn' WHERE id = ?", (batch_id,))
            for number, identity, stack in rows:
                state = "quarantined" if identity in bad else "ready"
                self._connection.execute(
                    "UPDATE particles SET state = ?, batch_id = NULL WHERE id = ?", (state, number)
                )
                if identity in bad:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO quarantine (path, identity, kind, reason, at) VALUES (?, ?, ?, ?, ?)",
                        (stack, identity, *bad[identity], time.time()),
                    )
        return len(rows) - sum(identity in bad for _, identity, _ in rows)


def decode_body(batch: BatchRecord) -> TableWire:
    """Return the columns of a batch."""
    return msgspec.json.decode(batch.body, type=TableWire)
