"""A ledger whose disk is full, then has room; and one that was cut. SQLite's own page limit stands for the disk."""

import sqlite3
import threading
import time

import pytest

from streamrecon.errors import LedgerCorrupt, StateError, StateUnwritable
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.ledger_errors import ledger_error
from streamrecon.ingest.ledger_schema import LedgerDatabase
from streamrecon.ingest.serve import Ingest
from streamrecon.ingest.service import IngestService, IngestSettings
from streamrecon.transport.feed_client import FeedClient
from tests.integration.ingest_helpers import CountingMetrics, put_stack_and_star


class Metrics(CountingMetrics):
    writable = None

    def ledger_writable(self, writable):
        self.writable = writable


def until(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ingest_waits_for_room_and_goes_on(tmp_path, monkeypatch):
    root, out = tmp_path / "incoming", tmp_path / "out"
    put_stack_and_star(root, "before.mrcs", n=5)
    full = threading.Event()
    real = LedgerDatabase.transaction

    def transaction(self):
        if self._depth == 0:
            pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
            self.connection.execute(f"PRAGMA max_page_count = {pages if full.is_set() else 10**6}")
        return real(self)

    monkeypatch.setattr(LedgerDatabase, "transaction", transaction)
    settings = IngestSettings(
        root, out, settle_seconds=0.05, scan_seconds=0.2, endpoint=f"ipc://{tmp_path}/feed", batch_size=5,
        batch_wait_seconds=0.1,
    )  # fmt: skip
    metrics = Metrics()
    ingest = Ingest(lambda: IngestService(settings, metrics), metrics, retry_seconds=0.05)
    stop = threading.Event()
    thread = threading.Thread(target=ingest.run, args=(stop,))
    thread.start()
    try:
        with FeedClient(settings.endpoint, "w") as client:
            taken = []

            def take():
                item = client.poll(0.05)
                if item is not None:
                    taken.append(item[0])
                    client.ack([item[0]])
                return taken

            until(lambda: take() == [1])
            full.set()
            for number in range(40):
                put_stack_and_star(root, f"while{number}.mrcs", n=5, seed=number)
            until(lambda: metrics.writable is False and ingest.waiting_for)
            assert "free space" in ingest.waiting_for
            assert LEDGER_NAME in ingest.waiting_for
            full.clear()
            until(lambda: len(take()) == 41, seconds=120)
            assert metrics.writable is True
            assert ingest.waiting_for == ""
            assert sorted(taken) == list(range(1, 42))
    finally:
        stop.set()
        thread.join()
    with Ledger(out / LEDGER_NAME) as ledger:
        assert ledger.counts().particles == {"ready": 0, "queued": 0, "folded": 205, "quarantined": 0}


def test_a_transaction_that_found_no_room_leaves_the_ledger_as_it_was(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        database = ledger._database
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count = {pages}")

        def too_much():
            with ledger.transaction():
                for i in range(10_000):
                    database.put_meta(f"key{i}", "x" * 100)

        with pytest.raises(sqlite3.OperationalError, match="full"):
            too_much()
        assert database._depth == 0
        assert ledger._database.meta("key0") is None
        ledger._connection.execute("PRAGMA max_page_count = 100000")
        with ledger.transaction():
            database.put_meta("key", "value")


@pytest.mark.parametrize("length", [1, 50, 99, 100, 511, 4095, 4096, 4097, 8192, -4096, -1])
def test_a_cut_ledger_is_refused_and_left_as_it_is(tmp_path, length):
    path = tmp_path / "l.sqlite"
    Ledger(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    for access in ("own", "read"):
        with pytest.raises(LedgerCorrupt, match=r"l\.sqlite.*cut or altered.*Restore"):
            Ledger(path, access=access)
    assert path.read_bytes() == whole[:length]
    path.write_bytes(whole)
    Ledger(path).close()


def test_a_folder_that_cannot_be_made_may_be_made_later(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StateUnwritable, match="cannot be made"):
        Ledger(tmp_path / "file" / "below" / "l.sqlite")


def test_errors_of_sqlite_by_their_meaning(tmp_path):
    kinds = {}
    for code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR | (3 << 8), sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        error = sqlite3.OperationalError("why")
        error.sqlite_errorcode = code
        kinds[code & 0xFF] = type(ledger_error(tmp_path / "l.sqlite", error))
    assert kinds == {
        sqlite3.SQLITE_FULL: StateUnwritable,
        sqlite3.SQLITE_IOERR: StateUnwritable,
        sqlite3.SQLITE_CORRUPT: LedgerCorrupt,
        sqlite3.SQLITE_ERROR: StateError,
    }
