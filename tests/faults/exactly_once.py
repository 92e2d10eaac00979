"""Every particle that was written is in the map exactly once: asked of four places that know nothing of each other."""

import json
import sqlite3
from collections import Counter
from contextlib import closing

from streamrecon.io import read_star
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.record import WorkerRecord
from tests.e2e.daemon import particle_names


def assert_exactly_once(session, *, ledger_folder=None):
    """Hold ledger, checkpoint, raw pose table and map against the STAR of all particles; return particles, batches.

    The raw table, not its export: that one lists a particle once however often it was folded.
    """
    fed = Counter(particle_names(read_star(session.manifest)))
    assert max(fed.values()) == 1
    rows = (session.output / "poses.rows").read_text().splitlines()
    folded = Counter(_name_in(row) for row in rows if row)
    assert folded == fed, f"{len(fed - folded)} are missing, {len(folded - fed)} are there twice"
    path = (ledger_folder or session.output) / "ledger.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        states = dict(ledger.execute("SELECT state, sum(n) FROM batches GROUP BY state"))
        ids = [i for (i,) in ledger.execute("SELECT id FROM batches ORDER BY id")]
    assert states == {"folded": len(fed)}, states
    record = WorkerRecord.from_checkpoint(CheckpointStore(session.output / "checkpoints").load_latest().extra)
    assert [i for first, last in record.folded for i in range(first, last + 1)] == ids
    seen = json.loads((session.output / "snapshots" / "status.json").read_text())["particles_seen"]
    assert seen == len(fed), f"{seen} in the map, {len(fed)} were written"
    return len(fed), len(ids)


def _name_in(row):
    section, _, stack = row.split(maxsplit=1)[0].partition("@")
    return stack.rsplit("/", 1)[-1], int(section) - 1
