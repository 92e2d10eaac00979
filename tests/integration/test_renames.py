"""Stacks that are renamed: before a manifest names them, before they are folded, after, and while nobody looks."""

import shutil
import sqlite3
import time

import pytest

from streamrecon.ingest.delivery import Delivery
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_schema import SCHEMA_VERSION
from streamrecon.ingest.scan import scan_tree
from tests.integration.ingest_helpers import Bench, all_rows, images, put_stack_and_star, star_text


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def ledger_path(tmp_path):
    return tmp_path / "out" / "ledger.sqlite"


@pytest.fixture
def bench(root, ledger_path):
    bench = Bench(root, ledger_path)
    yield bench
    bench.ledger.close()


def move(stack, star, name):
    """Rename a stack, and write the STAR that names it."""
    there = stack.with_name(name)
    stack.rename(there)
    star.unlink()
    new_star = there.with_suffix(".star")
    new_star.write_text(star_text(all_rows(name, 5)), encoding="utf-8")
    return there, new_star


def particles(bench):
    return bench.ledger._connection.execute("SELECT count(*) FROM particles").fetchone()[0]


def place(bench, stack="good.mrcs"):
    return bench.ledger.contents.name_of(stack)


def test_renamed_after_it_was_folded_counts_no_more(root, bench):
    stack, star = put_stack_and_star(root)
    assert bench.good_is_queued()
    move(stack, star, "better.mrcs")
    bench.until(lambda: bench.state_of("better.mrcs") == "ready")
    bench.for_seconds(0.3)
    assert particles(bench) == 5
    assert place(bench) == "better.mrcs"
    assert bench.ledger.contents.stack_at("better.mrcs") == "good.mrcs"


@pytest.mark.parametrize("named_again", [True, False])
def test_renamed_before_it_was_folded_is_read_where_it_lies(root, bench, named_again):
    stack, star = put_stack_and_star(root)
    assert bench.good_is_queued()
    if named_again:
        move(stack, star, "better.mrcs")
    else:
        stack.rename(root / "better.mrcs")
    bench.until(lambda: bench.state_of("better.mrcs") == "ready")
    assert place(bench) == "better.mrcs"
    delivery = Delivery(bench.ledger, root)
    batch = bench.ledger.batches.lease_next("worker")
    message, pixels, bad = delivery.prepare(batch, by_reference=False)
    assert bad == {}
    assert (pixels == images(5)).all()
    # the same particles as ever, so in the same half
    assert message.identities == [f"{i + 1:06d}@good.mrcs" for i in range(5)]
    assert message.table.stack_names == [str(root / "better.mrcs")]
    by_reference, _, _ = delivery.prepare(batch, by_reference=True)
    assert by_reference.stack_bytes == [(root / "better.mrcs").stat().st_size]


def test_what_was_set_aside_because_it_could_not_be_found_comes_back(root, bench):
    stack, star = put_stack_and_star(root)
    assert bench.good_is_queued()
    batch = bench.ledger.batches.lease_next("worker")
    stack.rename(root / ".away")
    delivery = Delivery(bench.ledger, root)
    _, _, bad = delivery.prepare(batch, by_reference=False)
    bench.ledger.batches.withdraw(batch.batch_id, bad)
    assert bench.ledger.counts().particles["quarantined"] == 5
    (root / ".away").rename(stack)
    move(stack, star, "better.mrcs")
    bench.until(lambda: bench.ready() == 5)
    assert bench.ledger.counts().particles["quarantined"] == 0
    assert particles(bench) == 5


def test_a_copy_is_a_file_of_its_own(root, bench):
    put_stack_and_star(root)
    bench.until(lambda: bench.ready() == 5)
    shutil.copy(root / "good.mrcs", root / "copy.mrcs")
    (root / "copy.star").write_text(star_text(all_rows("copy.mrcs", 5)), encoding="utf-8")
    bench.until(lambda: bench.ready() == 10)
    # and stays one when the original goes
    (root / "good.mrcs").unlink()
    (root / "copy.mrcs").rename(root / "last.mrcs")
    (root / "last.star").write_text(star_text(all_rows("last.mrcs", 5)), encoding="utf-8")
    bench.until(lambda: bench.state_of("last.mrcs") == "ready")
    assert bench.ready() == 10
    assert place(bench, "copy.mrcs") == "last.mrcs"


def test_renamed_while_ingest_was_down(root, ledger_path):
    first = Bench(root, ledger_path)
    stack, star = put_stack_and_star(root)
    first.until(lambda: first.ready() == 5)
    first.ledger.close()
    move(stack, star, "better.mrcs")
    again = Bench(root, ledger_path)
    again.until(lambda: again.state_of("better.mrcs") == "ready")
    assert again.ready() == 5
    again.ledger.close()


def test_a_new_stack_under_the_old_name_counts(root, bench):
    stack, star = put_stack_and_star(root)
    bench.until(lambda: bench.ready() == 5)
    # both before anybody looks
    move(stack, star, "better.mrcs")
    put_stack_and_star(root, n=7, seed=3)
    bench.until(lambda: bench.ready() == 12)
    bench.for_seconds(0.3)
    assert particles(bench) == 12
    assert bench.ledger.contents.stack_at("good.mrcs") == "good.mrcs (2)"
    delivery = Delivery(bench.ledger, root)
    bench.batcher.make(time.monotonic(), flush=True)
    message, _, bad = delivery.prepare(bench.ledger.batches.lease_next("worker"), by_reference=False)
    assert bad == {}
    assert set(message.table.stack_names) == {str(root / "good.mrcs"), str(root / "better.mrcs")}
    assert len(set(message.identities)) == 12


def test_a_new_stack_under_the_old_name_counts_even_if_it_is_looked_at_first(root, bench):
    stack, _ = put_stack_and_star(root)
    (root / "later.star").write_text(star_text(all_rows("later.mrcs", 5)), encoding="utf-8")
    bench.until(lambda: bench.ready() == 5 and bench.state_of("later.mrcs") is not None)
    stack.rename(root / "later.mrcs")
    put_stack_and_star(root, n=7, seed=3)
    followed = bench.collector._followed
    for _ in range(200):
        now = time.monotonic()
        bench.collector.take_scan(scan_tree(bench.wanted), now)
        followed.open_stacks = dict(sorted(followed.open_stacks.items()))  # good.mrcs before later.mrcs
        bench.collector.step(now)
        if particles(bench) == 12:
            break
        time.sleep(0.02)
    bench.for_seconds(0.3)
    assert particles(bench) == 12
    assert place(bench) == "later.mrcs"


def test_a_person_s_retry_finds_a_renamed_stack(root, bench):
    stack, star = put_stack_and_star(root)
    bench.until(lambda: bench.ready() == 5)
    move(stack, star, "better.mrcs")
    bench.until(lambda: place(bench) == "better.mrcs")
    identity = "000002@good.mrcs"
    bench.good_is_queued()
    batch = bench.ledger.batches.lease_next("worker")
    bench.ledger.batches.withdraw(batch.batch_id, {identity: ("numerical_error", "for the test")})
    assert bench.ready() == 4
    bench.collector.retry("good.mrcs", identity, time.monotonic())
    bench.until(lambda: bench.ready() == 5)


def test_a_ledger_of_the_version_before_learns_what_its_stacks_hold(root, ledger_path):
    first = Bench(root, ledger_path)
    stack, star = put_stack_and_star(root)
    first.until(lambda: first.ready() == 5)
    first.ledger.close()
    with sqlite3.connect(ledger_path) as old:
        old.executescript(
            "DROP TABLE contents; DROP TABLE places; UPDATE meta SET value = '2' WHERE key = 'schema_version'"
        )
    old.close()
    reader = Ledger(ledger_path, access="read")
    assert reader.counts().particles["ready"] == 5
    reader.close()
    second = Bench(root, ledger_path)
    assert second.ledger._database.meta("schema_version") == str(SCHEMA_VERSION)
    second.until(lambda: second.ledger.contents.held("good.mrcs"))
    move(stack, star, "better.mrcs")
    second.until(lambda: second.state_of("better.mrcs") == "ready")
    assert second.ready() == 5
    second.ledger.close()
