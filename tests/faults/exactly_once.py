"""Every particle that was written is in the map exactly once: asked of four places that know nothing of each other."""

import json
import re
import sqlite3
from collections import Counter
from contextlib import closing

from streamrecon.io import read_star
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.record import WorkerRecord
from tests.e2e.daemon import particle_names


def assert_exactly_once(session, *, ledger_folder=None):
    """Hold ledger, checkpoint, pose tables and map against the STAR of all particles; return particles, batches.

    The raw pose tables have a row for each time that a particle was folded or, in a quiet moment, visited again, or say
    that they had it; the map says how many of both there were. So a particle folded twice shows as one particle too
    many in the map, and one that is in a table twice for another reason as a row too many.
    """
    fed = Counter(particle_names(read_star(session.manifest)))
    assert max(fed.values()) == 1
    rows = Counter(pose_rows(session))
    assert rows.keys() == fed.keys(), f"{len(fed - rows)} are missing, {len(rows.keys() - fed.keys())} were not written"
    status = json.loads((session.output / "snapshots" / "status.json").read_text())
    seen, visits = status["particles_seen"], status["image_visits"]
    assert seen == len(fed), f"{seen} in the map, {len(fed)} were written"
    posed = rows.total() + dropped_rows(session)
    assert posed == visits, f"{posed} poses in the tables, {visits} image visits in the map"
    exported = Counter(particle_names(session.poses()))
    assert exported == fed, f"{len(fed - exported)} are missing in the export, {len(exported - fed)} are there twice"
    with _ledger(ledger_folder or session.output) as ledger:
        ids = [i for (i,) in ledger.execute("SELECT id FROM batches ORDER BY id")]
    states = batch_states(ledger_folder or session.output)
    assert states == {"folded": len(fed)}, states
    record = WorkerRecord.from_checkpoint(CheckpointStore(session.output / "checkpoints").load_latest().extra)
    assert [i for first, last in record.folded for i in range(first, last + 1)] == ids
    return len(fed), len(ids)


def queued_batches(session):
    """Return how many batches wait for a worker."""
    with _ledger(session.output) as ledger:
        return ledger.execute("SELECT count(*) FROM batches WHERE state = 'queued'").fetchone()[0]


def batch_states(folder):
    """Return the states of the batches in a folder's ledger, each with how many particles are in it."""
    with _ledger(folder) as ledger:
        return dict(ledger.execute("SELECT state, sum(n) FROM batches GROUP BY state"))


def _ledger(folder):
    return closing(sqlite3.connect(f"file:{folder / 'ledger.sqlite'}?mode=ro", uri=True))


def folded(session):
    """Return how many particles stand in the raw pose table, however often they were visited."""
    return len(set(pose_rows(session)))


def pose_rows(session):
    """Return (file name of the stack, section) of every whole row of the raw pose tables."""
    lines = [line for path in _tables(session) if path.exists() for line in path.read_bytes().splitlines(keepends=True)]
    return [_name_in(row.decode()) for row in lines if row.endswith(b"\n") and not row.startswith(b"#")]


def dropped_rows(session):
    """Return how many rows of visits say to have been dropped, since later ones of the same particles are there."""
    path = _tables(session)[1]
    first = path.read_bytes().split(b"\n", 1)[0] if path.exists() else b""
    return int(re.search(rb"and (\d+) rows were dropped", first)[1]) if first.startswith(b"#") else 0


def _tables(session):
    return session.output / "poses.rows", session.output / "poses.visits"


def _name_in(row):
    section, _, stack = row.split(maxsplit=1)[0].partition("@")
    return stack.rsplit("/", 1)[-1], int(section) - 1
