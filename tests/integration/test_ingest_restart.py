"""What is as an earlier run of ingest left it is not read again; what changed while nobody looked is."""

import contextlib
import os

import numpy as np
import pytest

from streamrecon.errors import IngestError
from streamrecon.ingest import examine, fingerprint, take_stacks
from tests.integration.copy_helpers import CLOCK, assert_once, delivered, describe, is_ready, put
from tests.integration.ingest_helpers import Bench, all_rows, images, star_text


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


def look_again(start, opened):
    """Let the next run of ingest look until nothing changes any more; `opened` is what it opens."""
    opened.clear()
    bench = start()
    bench.look()
    return bench


def test_it_opens_no_stack_that_is_as_it_was(root, start, opened):
    fill(root)
    bench = start()
    bench.look()
    assert bench.ready() == 20
    assert set(opened) == {"a.mrcs", "b.mrcs", "c.mrcs", "short.mrcs"}
    bench = look_again(start, opened)
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
    bench = look_again(start, opened)
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


def test_one_that_only_looks_as_old_is_read(root, start, opened):
    """Longer than it was, with the time that it had."""
    fill(root)
    start().look()
    before = (root / "b.mrcs").stat().st_mtime_ns
    put(root / "b.mrcs", images(6, seed=1))
    os.utime(root / "b.mrcs", ns=(before, before))
    bench = look_again(start, opened)
    assert set(opened) == {"b.mrcs"}
    assert bench.ready() == 21


def test_one_of_which_a_particle_is_set_aside_is_not_read(root, start, opened):
    pixels = images(5)
    pixels[2] = np.nan
    put(root / "a.mrcs", pixels)
    bench = start()
    bench.look()
    assert [entry.identity for entry in bench.quarantine_of("a.mrcs")] == ["000003@a.mrcs"]
    bench = look_again(start, opened)
    assert opened == []
    assert bench.ready() == 4


def test_one_that_somebody_asked_to_be_looked_at_is_read(root, start, opened, monkeypatch):
    """Also if ingest was killed between, and though nobody has changed it."""
    fill(root)
    start().look()
    bench = start()
    bench.ledger.quarantine("b.mrcs", "ingest_error", "it may not be looked at")
    bench.collector.retry("b.mrcs", "", bench.now)
    opened.clear()
    probe = take_stacks.probe_stack

    def unreadable(path):
        if path.name == "b.mrcs":
            opened.append(path.name)
            raise IngestError("it still may not")
        return probe(path)

    with monkeypatch.context() as patch:
        patch.setattr(take_stacks, "probe_stack", unreadable)
        bench = start()
        bench.until(lambda: bench.quarantine_of("b.mrcs"))
    assert set(opened) == {"b.mrcs"}


def test_one_that_was_another_for_a_moment_is_read(root, start, monkeypatch):
    """Killed once it was found to hold what is looked for, before it was examined; then it is what it was again."""
    put(root / "a.mrcs", images(5, seed=1))
    put(root / "b.mrcs", images(5, seed=2))
    start().look()
    (root / "a.star").unlink()
    (root / "a.mrcs").rename(root / "kept")
    (root / "b.mrcs").rename(root / "a.mrcs")
    bench = start()
    seek = take_stacks.StackTaker._seek

    def killed(taker, stack, now):
        seek(taker, stack, now)
        if stack.settle.referred:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(take_stacks.StackTaker, "_seek", killed)
        with pytest.raises(KeyboardInterrupt):
            bench.look()
    (root / "a.mrcs").rename(root / "b.mrcs")
    (root / "kept").rename(root / "a.mrcs")
    describe(root / "a.mrcs", 5)
    bench = start()
    bench.look()
    found, _ = delivered(bench)
    assert_once(found, np.concatenate([images(5, seed=1), images(5, seed=2)]))


@pytest.mark.parametrize("name", ["a.star", "z.star"])
def test_what_a_new_manifest_says_counts(root, start, name):
    """Not what an old one said of a stack that had not come yet, though that is read again after it."""
    late = all_rows("late.mrcs", 5)
    wrong = root / "m.star"
    wrong.write_text(star_text(late, pixel_size=4.5))
    os.utime(wrong, (next(CLOCK),) * 2)
    put(root / "first.mrcs", images(2, seed=7))
    start().look()
    put(root / "late.mrcs", images(5))
    (root / "late.star").rename(root / name)
    bench = start()
    bench.look()
    assert is_ready(bench, "late.mrcs")
    assert bench.ready() == 7


@pytest.mark.parametrize("names", [("a.star", "z.star"), ("z.star", "a.star")])
def test_of_old_manifests_the_latest_counts(root, start, names):
    late = all_rows("late.mrcs", 5)
    put(root / "first.mrcs", images(2, seed=7))
    for name, pixel_size in zip(names, (4.5, 3.0), strict=True):
        (root / name).write_text(star_text(late, pixel_size=pixel_size))
        os.utime(root / name, (next(CLOCK),) * 2)
    start().look()
    put(root / "late.mrcs", images(5))
    (root / "late.star").unlink()
    bench = start()
    bench.look()
    assert is_ready(bench, "late.mrcs")
    assert bench.ready() == 7


def test_one_that_was_set_aside_since_is_read(root, start, opened):
    fill(root)
    bench = start()
    bench.look()
    bench.ledger.quarantine("b.mrcs", "ingest_error", "it may not be looked at")
    bench = look_again(start, opened)
    assert set(opened) == {"b.mrcs"}
    assert bench.quarantine_of("b.mrcs") == []


def test_one_of_an_older_ledger_is_read_once(root, start, opened):
    fill(root)
    bench = start()
    bench.look()
    bench.ledger._connection.execute("UPDATE places SET image = NULL WHERE section = 2")
    look_again(start, opened)
    assert set(opened) == {"a.mrcs", "b.mrcs", "c.mrcs", "short.mrcs"}
    look_again(start, opened)
    assert opened == []
