"""A ledger whose disk is full, then has room; and one that was cut. SQLite's own page limit stands for the disk."""

import contextlib
import shutil
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
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


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
            # said while it waits, and it tries again and again
            said = until(lambda: metrics.writable is False and ingest.waiting_for)
            assert "free space" in said
            assert LEDGER_NAME in said
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


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A ledger as a kill leaves it: most of it in the file, its last pages in the log beside it only."""
    folder = tmp_path_factory.mktemp("killed")
    path, kept = folder / "l.sqlite", folder / "kept.sqlite"
    with contextlib.closing(Ledger(path)) as ledger:
        database = ledger._database

        def put(first, last):
            with database.transaction():
                for i in range(first, last):
                    database.put_meta(f"key{i}", 2000 * "x")

        put(0, 100)
        ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        put(100, 130)
        for name in ("", "-wal"):
            shutil.copyfile(f"{path}{name}", f"{kept}{name}")
    return kept


def opened_after(killed, folder, n_bytes):
    path = folder / "l.sqlite"
    for name in ("", "-wal"):
        shutil.copyfile(f"{killed}{name}", f"{path}{name}")
    with path.open("rb+") as file:
        file.truncate(n_bytes)
    with contextlib.closing(Ledger(path)) as ledger:
        return [ledger._database.meta(f"key{i}") for i in (0, 99, 129)]


def test_a_ledger_that_was_killed_is_whole_with_its_log(killed, tmp_path):
    assert opened_after(killed, tmp_path, killed.stat().st_size) == 3 * [2000 * "x"]


@pytest.mark.parametrize("cut", [1, 4096, 4097, 50_000, 150_000])
def test_a_ledger_cut_beside_its_log_is_refused_and_left_as_it_is(killed, tmp_path, cut):
    n_bytes = killed.stat().st_size - cut
    with pytest.raises(LedgerCorrupt, match=r"l\.sqlite.*found \d+ pages of 4096 bytes where it says \d+.*Restore"):
        opened_after(killed, tmp_path, n_bytes)
    assert (tmp_path / "l.sqlite").read_bytes() == killed.read_bytes()[:n_bytes]
    assert (tmp_path / "l.sqlite-wal").read_bytes() == killed.with_name("kept.sqlite-wal").read_bytes()


def test_what_a_cut_took_may_lie_in_the_log(killed, tmp_path):
    """A kill while the log is written into the file: it may have grown by some of its new pages only."""
    path = tmp_path / "l.sqlite"
    for name in ("", "-wal"):
        shutil.copyfile(f"{killed}{name}", f"{path}{name}")
    before = path.stat().st_size
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        grown = path.stat().st_size
        assert grown > before + 2 * 4096
        shutil.copyfile(path, tmp_path / "half.sqlite")
        shutil.copyfile(f"{path}-wal", tmp_path / "half.sqlite-wal")
    half = tmp_path / "half.sqlite"
    (tmp_path / "again").mkdir()
    assert opened_after(half, tmp_path / "again", before + 4096) == 3 * [2000 * "x"]


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
