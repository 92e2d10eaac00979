"""Quarantine as people handle it: dismissed, asked to be looked at again, and the ledger that remembers."""

import contextlib
import os
import sqlite3
import threading
import time

import pytest

from streamrecon.errors import CheckpointIncompatible
from streamrecon.ingest import ledger_schema
from streamrecon.ingest.ledger import Ledger
from tests.integration.ingest_helpers import Bench, all_rows, put_stack_and_star, star_text
from tests.ledgers import add_particles, known_sections
from tests.unit.ingest.test_ledger import rows

# the tables as release 0.1's first ledgers had them
VERSION_1 = """
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
    reason TEXT NOT NULL, at REAL NOT NULL, UNIQUE (path, identity)
);
INSERT INTO meta VALUES ('schema_version', '1'), ('session', 'abc'), ('session_name', 'old');
INSERT INTO stacks VALUES ('a.mrcs', 'ready', 10, 20, 8, 5, '', 1.0);
INSERT INTO batches VALUES (
    7, 'folded', 1, 'w', CAST('{"stack_names":["a.mrcs"],"stack_number":[0],"stack_index":[0]}' AS BLOB),
    1.0, 2.0, 3.0, 4.0
);
INSERT INTO particles VALUES (1, '000001@a.mrcs', 'a.mrcs', 0, 'queued', 1.0, x'7b7d', 7);
INSERT INTO quarantine VALUES (1, 'bad.mrcs', '', 'stack_corrupt', 'why', 5.0);
"""


@pytest.fixture
def old_ledger(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(VERSION_1)
    return path


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", "test") as made:
        yield made


def check_old_rows(ledger):
    assert ledger.session == "abc"
    assert ledger.session_name == "old"
    assert [(s.name, s.count) for s in ledger.stacks()] == [("a.mrcs", 5)]
    assert [(e.path, e.reason, e.at, e.dismissed_at) for e in ledger.quarantined()] == [("bad.mrcs", "why", 5.0, None)]
    counts = ledger.counts()
    assert counts.particles["folded"] == 1
    assert counts.quarantine == {"open": 1, "dismissed": 0}
    assert ledger.retry_requests() == []


def schema_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = [t for (t,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return {t: connection.execute(f"PRAGMA table_info({t})").fetchall() for t in tables}


class TestOlderLedger:
    def test_its_owner_brings_it_up_to_date_and_loses_nothing(self, old_ledger, tmp_path):
        with Ledger(old_ledger) as ledger:
            check_old_rows(ledger)
            assert ledger.dismiss([("bad.mrcs", "")]) == 1
        with Ledger(old_ledger, access="share") as ledger:
            assert ledger.counts().quarantine == {"open": 0, "dismissed": 1}
        Ledger(tmp_path / "new.sqlite").close()
        columns = {t: {c[1] for c in info} for t, info in schema_of(old_ledger).items()}
        assert columns == {t: {c[1] for c in info} for t, info in schema_of(tmp_path / "new.sqlite").items()}

    def test_a_reader_reads_it_as_it_is(self, old_ledger):
        before = schema_of(old_ledger)
        with Ledger(old_ledger, access="read") as ledger:
            check_old_rows(ledger)
        assert schema_of(old_ledger) == before

    def test_who_shares_it_is_told_who_migrates(self, old_ledger):
        with pytest.raises(CheckpointIncompatible, match="found 1; start `streamrecon run`"):
            Ledger(old_ledger, access="share")

    def test_a_migration_that_fails_leaves_it_as_it_was(self, old_ledger, monkeypatch):
        before = schema_of(old_ledger)
        monkeypatch.setitem(ledger_schema.MIGRATIONS, "1", ledger_schema.MIGRATIONS["1"] + "nonsense;\n")
        with pytest.raises(Exception, match="nonsense"):
            Ledger(old_ledger)
        assert schema_of(old_ledger) == before


def test_a_reader_without_write_permission_reads_a_closed_ledger(tmp_path, monkeypatch):
    Ledger(tmp_path / "ledger.sqlite", "test").close()
    monkeypatch.setattr(ledger_schema.os, "access", lambda path, mode: mode != os.W_OK)
    with Ledger(tmp_path / "ledger.sqlite", access="read") as ledger:
        assert ledger.session_name == "test"
        assert not list(tmp_path.glob("*-shm")), "a reader that may not write made a file"


def test_dismissed_is_kept_and_opens_again_for_another_reason(ledger):
    ledger.quarantine("a.star", "manifest_mismatch", "one")
    ledger.quarantine("b.star", "stack_corrupt", "two")
    assert ledger.open_kinds() == {"manifest_mismatch": 1, "stack_corrupt": 1}
    assert ledger.dismiss([("a.star", ""), ("nobody", "")]) == 1
    assert ledger.dismiss([("a.star", "")]) == 0
    entry = next(e for e in ledger.quarantined() if e.path == "a.star")
    assert abs(entry.dismissed_at - time.time()) < 600
    assert ledger.counts().quarantine == {"open": 1, "dismissed": 1}
    assert not ledger.quarantine("a.star", "manifest_mismatch", "one")
    assert ledger.open_kinds() == {"stack_corrupt": 1}
    assert ledger.quarantine("a.star", "manifest_mismatch", "three")
    assert ledger.open_kinds() == {"manifest_mismatch": 1, "stack_corrupt": 1}


def test_one_particle_is_released_without_the_others(ledger):
    made = rows("s.mrcs", range(3))
    first, second, _ = made
    add_particles(ledger, made, dict.fromkeys(made, ("stack_corrupt", "zero")))
    assert [r.stack_index for r in ledger.release("s.mrcs", second)] == [1]
    assert known_sections(ledger, "s.mrcs") == {0, 2}
    assert second not in {e.identity for e in ledger.quarantined()}
    assert first in {e.identity for e in ledger.quarantined()}
    assert [r.stack_index for r in ledger.release("s.mrcs")] == [0, 2]
    assert ledger.quarantined() == []


def test_a_request_reaches_a_ledger_that_another_process_has_open_and_busy(ledger):
    ledger.quarantine("a.star", "manifest_mismatch", "one")

    def ask():
        with Ledger(ledger.path, access="share") as shared:
            shared.ask_retry([("a.star", "")])

    thread = threading.Thread(target=ask)
    with ledger.transaction():
        thread.start()
        time.sleep(0.2)
        assert thread.is_alive(), "a writer waits for the other's transaction"
    thread.join(60)
    (request,) = ledger.retry_requests()
    assert (request.path, request.identity) == ("a.star", "")
    ledger.finish_request(request)
    assert ledger.retry_requests() == []


def mend(path, data):
    """Write other bytes under the same size and time, as a restored file system might."""
    status = path.stat()
    path.write_bytes(data[: status.st_size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_retry_looks_at_a_stack_again_that_nobody_touched(tmp_path):
    stack, _ = put_stack_and_star(tmp_path / "in")
    good = stack.read_bytes()
    # an impossible mode: the header is at fault, not the size
    stack.write_bytes(good[:12] + b"\x63\0\0\0" + good[16:])
    bench = Bench(tmp_path / "in", tmp_path / "ledger.sqlite")
    bench.until(lambda: bench.state_of("good.mrcs") == "quarantined")
    kinds = len(bench.metrics.kinds)
    bench.collector.retry("good.mrcs", "", bench.now)
    assert bench.state_of("good.mrcs") == "settling"
    bench.until(lambda: bench.quarantine_of("good.mrcs"))
    assert len(bench.metrics.kinds) == kinds + 1, "what is still wrong comes back and is counted"
    mend(stack, good)
    bench.for_seconds(0.2)
    assert bench.state_of("good.mrcs") == "quarantined"
    bench.collector.retry("good.mrcs", "", bench.now)
    bench.until(lambda: bench.ready() == 5)
    assert bench.ledger.quarantined() == []
    bench.ledger.close()


def test_retry_looks_at_a_manifest_again(tmp_path):
    _, star = put_stack_and_star(tmp_path / "in")
    good = star.read_bytes()
    star.write_bytes(good.replace(b"data_particles", b"data_particels"))
    bench = Bench(tmp_path / "in", tmp_path / "ledger.sqlite")
    bench.until(lambda: bench.quarantine_of("good.star"))
    mend(star, good)
    bench.for_seconds(0.2)
    assert bench.ready() == 0
    bench.collector.retry("good.star", "", bench.now)
    bench.until(lambda: bench.ready() == 5)
    assert bench.ledger.quarantined() == []
    bench.ledger.close()


def test_retry_of_particles_queues_them_once(tmp_path):
    stack, star = put_stack_and_star(tmp_path / "in")
    bench = Bench(tmp_path / "in", tmp_path / "ledger.sqlite", orphan=0.2)
    star.write_text(star_text(all_rows(stack.name, 7)), encoding="utf-8")
    bench.until(lambda: len(bench.ledger.quarantined()) == 2)
    bench.batcher.make(bench.now, flush=True)
    batch = bench.ledger.batches.get(1)
    bench.ledger.batches.withdraw(1, {"000002@good.mrcs": ("numerical_error", "extreme")})
    bench.collector.retry("good.mrcs", "000002@good.mrcs", bench.now)
    bench.until(lambda: bench.ready() == 5)
    assert batch.n == 5
    assert len(bench.ledger.quarantined()) == 2, "the other two are still past the end"
    bench.collector.retry("good.mrcs", "", bench.now)
    assert bench.ledger.quarantined() == []
    bench.until(lambda: len(bench.ledger.quarantined()) == 2)
    assert bench.ready() == 5
    bench.ledger.close()


def test_a_request_made_while_ingest_was_away_is_done_when_it_is_back(tmp_path):
    put_stack_and_star(tmp_path / "in")
    bench = Bench(tmp_path / "in", tmp_path / "ledger.sqlite")
    bench.until(lambda: bench.ready() == 5)
    bench.batcher.make(bench.now, flush=True)
    bench.ledger.batches.withdraw(1, {"000002@good.mrcs": ("numerical_error", "extreme")})
    bench.ledger.close()
    again = Bench(tmp_path / "in", tmp_path / "ledger.sqlite")
    again.collector.retry("good.mrcs", "000002@good.mrcs", again.now)
    again.until(lambda: again.ready() == 5)
    assert again.ledger.quarantined() == []
    again.ledger.close()
