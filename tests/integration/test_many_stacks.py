"""What each of a session's thousands of stacks costs, once it is known: operations of a scan, and bytes held.

Counted between two sizes of a folder, so that what does not grow with it drops out.
"""

import gc
import itertools
import sys
import time
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import pytest

from streamrecon.ingest import collect
from streamrecon.ingest.ledger_contents import STACK_MISSING
from streamrecon.ingest.ledger_schema import FileRecord
from streamrecon.ingest.scan import Scan
from streamrecon.ingest.service import IngestService, IngestSettings
from streamrecon.ingest.take_stacks import StackTaker
from tests.integration.ingest_helpers import Bench, all_rows, put_stack_and_star, star_text
from tests.ledgers import known_sections

FEW, MANY = 40, 140
MOST_CALLS = 15  # of Python's and C's functions, a file
MOST_BYTES_A_ROW = 150  # that waits for its stack
MOST_BYTES = 1600  # a stack with its STAR, in Python's memory


@pytest.fixture
def bench(root, tmp_path):
    made = Bench(root, tmp_path / "out" / "ledger.sqlite", settle=1.0, orphan=1e9)
    yield made
    made.ledger.close()


def come(bench, numbers, n=2, folder="Extract/job007/Micrographs"):
    """Let stacks come, and have them taken."""
    for number in numbers:
        put_stack_and_star(bench.root / folder, f"mic_{number:06d}.mrcs", n, seed=number)
    bench.look(budget_seconds=1e9)
    bench.batcher.make(bench.now, flush=True)


def calls_of(act):
    """Return how often each function is called while something is done."""
    counts = Counter()

    def note(frame, event, argument):
        if event == "call":
            counts[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            counts[argument.__qualname__] += 1

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return counts


def sql_steps_of(ledger, act):
    """Return how many instructions of SQLite's machine something takes."""
    steps = itertools.count()
    ledger._connection.set_progress_handler(lambda: next(steps) and 0, 1)
    try:
        act()
    finally:
        ledger._connection.set_progress_handler(None, 1)
    return next(steps)


def test_a_scan_looks_once_at_each_known_file_and_does_little_else(bench):
    def scan():
        bench.collector.take_scan(Scan(bench.wanted), bench.now)

    come(bench, range(FEW))
    few = calls_of(scan)
    come(bench, range(FEW, MANY))
    files = 2 * (MANY - FEW)
    more = calls_of(scan) - few
    assert more["DirEntry.stat"] == files
    assert sum(count for name, count in more.items() if name.endswith("stat")) == files
    assert more.total() <= MOST_CALLS * files, more.most_common()
    assert not any("Path" in name or "Followed.observe" in name for name in more), more


def test_neither_scans_nor_gauges_nor_new_stacks_ask_the_ledger_for_more_as_it_grows(bench):
    """But for what waits: of these stacks all is folded."""
    acts = {
        "scan": lambda: bench.collector.take_scan(Scan(bench.wanted), bench.now),
        "step": lambda: bench.collector.step(bench.now),
        "counts": lambda: bench.ledger.counts(files=False),
        "oldest": bench.ledger.oldest_unfolded_at,
        "kinds": bench.ledger.open_kinds,
    }

    def fold():
        while (batch := bench.ledger.batches.lease_next("w")) is not None:
            bench.ledger.batches.fold([batch.batch_id], "w")

    def steps(new):
        fold()
        for act in acts.values():
            act()  # what it asks for the first time only
        asked = {name: sql_steps_of(bench.ledger, act) for name, act in acts.items()}
        return asked | {
            "new": sql_steps_of(bench.ledger, lambda: come(bench, range(new, new + 3), n=5)),
            "fold": sql_steps_of(bench.ledger, fold),
        }

    bench.batcher._batch_size = 1000
    come(bench, range(FEW), n=5)
    few = steps(1000)
    come(bench, range(FEW, MANY), n=5)
    many = steps(2000)
    assert many == {name: pytest.approx(count, abs=60) for name, count in few.items()}  # some batches more
    assert few["counts"] > 0
    # and those that are asked file by file do grow
    assert sql_steps_of(bench.ledger, bench.ledger.counts) > many["counts"] + MANY


def test_workers_are_served_between_a_few_stacks_of_many(bench, monkeypatch):
    """Four batches ahead, of a hundred particles each, are what a worker has to live on until then."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(collect, "time", SimpleNamespace(monotonic=lambda: clock.now))
    examine = StackTaker.examine

    def slow_examine(taker, stack, now):
        clock.now += 0.04
        examine(taker, stack, now)

    monkeypatch.setattr(StackTaker, "examine", slow_examine)
    for number in range(FEW):
        put_stack_and_star(bench.root, f"mic_{number:06d}.mrcs", 2, seed=number)
    turns = []
    while bench.ready() < 2 * FEW:
        began, bench.now = clock.now, bench.now + 2 * bench.settle
        bench.collector.take_scan(Scan(bench.wanted), bench.now)
        bench.collector.step(bench.now)
        turns.append(clock.now - began)
    assert max(turns) == pytest.approx(0.12)


def test_what_the_service_tells_every_second_does_not_grow_with_the_files(root, tmp_path):
    service = IngestService(IngestSettings(root, tmp_path / "out", endpoint="tcp://127.0.0.1:0"))
    try:
        steps = []
        for files in (range(FEW), range(FEW, MANY)):
            for number in files:
                service.ledger.put_stack(FileRecord(f"s{number}.mrcs", "ready", 1, 2, 3, 4))
                service.ledger.put_manifest(FileRecord(f"s{number}.star", "ready", 1, 2, 3))
                service.ledger.contents.put(f"s{number}.mrcs", number)
            steps.append(sql_steps_of(service.ledger, service._report))
        assert steps[1] == steps[0] > 0
    finally:
        service.close()


def test_the_service_scans_as_often_as_it_costs(root, tmp_path, monkeypatch):
    """And waits so long before it calls a folder idle that only scans look at."""
    settings = IngestSettings(root, tmp_path / "out", watch_mode="polling", endpoint="tcp://127.0.0.1:0")
    service = IngestService(settings)
    try:
        clock = itertools.count(100.0, 3.0)  # of the processor: a scan takes three seconds
        monkeypatch.setattr(time, "thread_time", lambda: next(clock))
        service._scan(1000.0)
        assert not service._watcher.scan_due(1059.9)
        assert service._watcher.scan_due(1060.0)
        assert service._patience(5.0) == 5.0 + 60.0
    finally:
        service.close()


def test_particles_that_wait_for_their_stack_are_found_without_looking_through_the_others(bench):
    def missing():
        contents = bench.ledger.contents
        return [(particle, place) for particle in contents.missing() for place in contents.places_of(particle)]

    come(bench, range(FEW))
    name = bench.ledger.stacks()[0].name
    assert len(known_sections(bench.ledger, name)) == 2
    batch = bench.ledger.batches.lease_next("w")
    lost = f"000001@{name}"
    bench.ledger.batches.withdraw(batch.batch_id, {lost: (STACK_MISSING, "gone")})
    (bench.root / name).unlink()
    ((particle, place),) = missing()
    assert (place.name, place.section) == (name, 0)
    few = sql_steps_of(bench.ledger, missing)
    come(bench, range(FEW, MANY))
    (row,) = missing()
    assert row == (particle, place)
    assert sql_steps_of(bench.ledger, missing) == few


def test_a_finished_stack_takes_little_memory(bench):
    def held():
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    n, few, many = 20, 20, 100
    come(bench, range(few), n)
    tracemalloc.start()
    try:
        # what the code itself keeps the first time is not counted
        come(bench, range(few, 2 * few), n)
        before = held()
        come(bench, range(2 * few, many), n)
        a_stack = (held() - before) / (many - 2 * few)
    finally:
        tracemalloc.stop()
    assert bench.ready() == 0
    assert bench.ledger.counts().particles["queued"] == n * many
    assert 0 < a_stack < MOST_BYTES


def test_rows_that_wait_for_their_stacks_are_kept_in_columns(root, bench):
    """A STAR that names everything brings the rows of all stacks at once."""
    (root / "first.star").write_text(star_text(all_rows("first.mrcs", 100)), encoding="utf-8")
    bench.look(2)
    names = [f"Extract/s{number}.mrcs" for number in range(20)]
    rows = [row for name in names for row in all_rows(name, 100)]
    (root / "all.star").write_text(star_text(rows), encoding="utf-8")
    tracemalloc.start()
    try:
        bench.look(2)
        gc.collect()
        a_row = tracemalloc.get_traced_memory()[0] / len(rows)
    finally:
        tracemalloc.stop()
    assert sum(len(stack.rows) for stack in bench.collector._followed.stacks.values()) == 100 + len(rows)
    assert a_row < MOST_BYTES_A_ROW


def test_nothing_is_kept_of_a_stack_that_came_after_its_star(root, bench):
    for number in range(3):
        (root / f"s{number}.star").write_text(star_text(all_rows(f"s{number}.mrcs", 4)), encoding="utf-8")
    bench.look()
    followed = bench.collector._followed
    assert sorted(followed.missing) == ["s0.mrcs", "s1.mrcs", "s2.mrcs"]
    put_stack_and_star(root, "s0.mrcs", n=4)
    # elsewhere than its STAR was taken to say
    put_stack_and_star(root / "sub", "s1.mrcs", n=4)
    (root / "sub" / "s1.star").unlink()
    (root / "s1.star").write_text(star_text(all_rows("sub/s1.mrcs", 4)), encoding="utf-8")
    bench.look()
    assert bench.ready() == 8
    assert sorted(followed.missing) == ["s2.mrcs"]
    assert not followed.open_stacks.keys() - {"s2.mrcs"}
