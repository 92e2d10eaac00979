"""What is as an earlier run of ingest left it is not read again; what changed while nobody looked is."""

import contextlib

import pytest

from streamrecon.ingest import examine, fingerprint, take_stacks
from tests.integration.copy_helpers import describe, is_ready, put
from tests.integration.ingest_helpers import Bench, images


@pytest.fixture
def opened(monkeypatch):
    """Return the names of stacks that were opened, in order."""
    names = []
    for module, name in ((take_stacks, "probe_stack"), (fingerprint, "read_sections"), (examine, "read_sections")):
        real = getattr(module, name)

        def noted(path, *arguments, real=real):
            names.append(path.name)
            return real(path, *arguments)

        monkeypatch.setattr(module, name, noted)
    return names


@pytest.fixture
def start(root, ledger_path):
    """Return what starts ingest on the session's ledger, after one that is closed."""
    with contextlib.ExitStack() as runs:

        def run():
            runs.close()
            bench = Bench(root, ledger_path)
            runs.callback(bench.ledger.close)
            return bench

        yield run


def fill(root):
    """Three stacks of which all is taken, and one of which the manifest names two images that it has not got yet."""
    for seed, name in enumerate(("a.mrcs", "b.mrcs", "deep/c.mrcs", "short.mrcs")):
        put(root / name, images(5, seed=seed))
    describe(root / "short.mrcs", 7)


def test_it_opens_no_stack_that_is_as_it_was(root, start, opened):
    fill(root)
    bench = start()
    bench.look()
    assert bench.ready() == 20
    assert set(opened) == {"a.mrcs", "b.mrcs", "c.mrcs", "short.mrcs"}
    opened.clear()
    bench = start()
    bench.look()
    assert opened == []
    assert is_ready(bench, "a.mrcs", "b.mrcs", "deep/c.mrcs", "short.mrcs")
    assert bench.ready() == 20
    # what grows, is named by another or lies elsewhere now is taken as before
    put(root / "short.mrcs", images(7, seed=3))
    (root / "a.mrcs").rename(root / "d.mrcs")
    describe(root / "d.mrcs", 5)
    bench.look()
    assert set(opened) == {"short.mrcs", "d.mrcs", "a.mrcs"}  # it is asked whether the last is there
    assert bench.ready() == 22
    assert bench.quarantine_of("short.mrcs") == []


def test_what_is_new_does_not_wait_for_what_is_known(root, start):
    for number in range(20):
        put(root / f"old{number}.mrcs", images(2, seed=number))
    start().look()
    put(root / "new.mrcs", images(2, seed=99))
    bench = start()
    # each round there is time to read one file
    for _ in range(6):
        bench.look(rounds=1, budget_seconds=0.0)
    assert is_ready(bench, "new.mrcs")
    assert bench.ready() == 42
    # one that changed is new
    put(root / "old7.mrcs", images(4, seed=7))
    bench = start()
    for _ in range(6):
        bench.look(rounds=1, budget_seconds=0.0)
    assert bench.ready() == 44
    bench.look(rounds=6 * 22, budget_seconds=0.0)
    assert is_ready(bench, *(f"old{number}.mrcs" for number in range(20)))


def test_images_past_its_end_are_given_up_in_time_all_the_same(root, start):
    fill(root)
    start().look()
    bench = start()
    bench.until(lambda: len(bench.quarantine_of("short.mrcs")) == 2)
    for entry in bench.quarantine_of("short.mrcs"):
        assert entry.kind == "manifest_mismatch"
        assert "at most 5" in entry.reason


def test_one_that_changed_meanwhile_is_read(root, start, opened):
    fill(root)
    start().look()
    put(root / "b.mrcs", images(5, seed=9))
    opened.clear()
    bench = start()
    bench.look()
    assert set(opened) == {"b.mrcs"}
    # the new images take the places of the old ones, which lie nowhere any more
    assert bench.ready() == 20


def test_one_of_which_more_is_named_now_is_read(root, start, opened):
    fill(root)
    describe(root / "b.mrcs", 3)
    start().look()
    describe(root / "b.mrcs", 5)
    opened.clear()
    bench = start()
    assert bench.ready() == 18
    bench.look()
    assert set(opened) == {"b.mrcs"}
    assert bench.ready() == 20


def test_one_that_was_set_aside_since_is_read(root, start, opened):
    fill(root)
    bench = start()
    bench.look()
    bench.ledger.quarantine("b.mrcs", "ingest_error", "it may not be looked at")
    opened.clear()
    bench = start()
    bench.look()
    assert set(opened) == {"b.mrcs"}
    assert bench.quarantine_of("b.mrcs") == []


def test_one_of_an_older_ledger_is_read_once(root, start, opened):
    fill(root)
    bench = start()
    bench.look()
    bench.ledger._connection.execute("UPDATE places SET image = NULL WHERE section = 2")
    opened.clear()
    start().look()
    assert set(opened) == {"a.mrcs", "b.mrcs", "c.mrcs", "short.mrcs"}
    opened.clear()
    start().look()
    assert opened == []
