"""An image counts once, wherever it lies: renamed, copied, linked, extracted again, grown; by counts and by pixels."""

import itertools
import os
import shutil
import sqlite3
import time

import numpy as np
import pytest

from streamrecon.ingest.delivery import Delivery
from streamrecon.ingest.fingerprint import image_digests
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_schema import SCHEMA_VERSION
from streamrecon.io import write_stack
from tests.integration.ingest_helpers import PIXEL_SIZE, Bench, all_rows, images, put_stack_and_star, star_text

CLOCK = itertools.count(1_700_000_000)


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


def describe(stack, n):
    """Write the STAR beside a stack that names its first images."""
    rows = all_rows(stack.name, n)
    star = stack.with_suffix(".star")
    star.write_text(star_text(rows), encoding="utf-8")
    stamp = next(CLOCK)
    os.utime(star, (stamp, stamp))


def put(stack, pixels):
    """Write a stack of these images, and its STAR."""
    stack.parent.mkdir(parents=True, exist_ok=True)
    write_stack(stack, pixels, PIXEL_SIZE)
    stamp = next(CLOCK)  # two changes within one tick of the kernel's clock cannot be told apart
    os.utime(stack, (stamp, stamp))
    describe(stack, len(pixels))


def move(stack, name):
    """Rename a stack, and write the STAR that names it."""
    there = stack.rename(stack.with_name(name))
    stack.with_suffix(".star").unlink()
    describe(there, 5)
    return there


def particles(bench):
    return bench.ledger._connection.execute("SELECT count(*) FROM particles").fetchone()[0]


def names_of(bench, identity):
    """Return the files in which the ledger knows an image to lie."""
    connection = bench.ledger._connection
    (number,) = connection.execute("SELECT id FROM particles WHERE identity = ?", (identity,)).fetchone()
    return {place.name for place in bench.ledger.contents.places_of(number)}


def is_ready(bench, *names):
    return all(bench.state_of(name) == "ready" for name in names)


def delivered(bench, *, by_reference=False):
    """Return every image that waits, in the order of its batches, and the files they are in."""
    bench.batcher.make(time.monotonic(), flush=True)
    delivery = Delivery(bench.ledger, bench.root)
    pixels, identities, names = [], [], set()
    while (batch := bench.ledger.batches.lease_next("worker")) is not None:
        message, found, bad = delivery.prepare(batch, by_reference=by_reference)
        assert bad == {}
        pixels.append(found)
        identities += message.identities
        names |= set(message.table.stack_names)
    assert len(set(identities)) == len(identities)
    return None if by_reference else np.concatenate(pixels), names


def assert_once(found, *expected):
    """Each of the images is there, once, and nothing else."""
    expected = np.concatenate(expected)
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


class TestRenamed:
    def test_after_it_was_folded_counts_no_more(self, root, bench):
        stack, _ = put_stack_and_star(root)
        bench.look()
        assert bench.good_is_queued()
        move(stack, "better.mrcs")
        bench.look()
        assert is_ready(bench, "better.mrcs")
        assert particles(bench) == 5
        assert names_of(bench, "000001@good.mrcs") == {"better.mrcs"}
        assert bench.metrics.copies == 0

    @pytest.mark.parametrize("named_again", [True, False])
    def test_before_it_was_folded_is_read_where_it_lies(self, root, bench, named_again):
        stack, _ = put_stack_and_star(root)
        bench.look()
        assert bench.good_is_queued()
        if named_again:
            move(stack, "better.mrcs")
        else:
            stack.rename(root / "better.mrcs")
        bench.look()
        assert is_ready(bench, "better.mrcs")
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

    def test_what_was_set_aside_because_it_could_not_be_found_comes_back(self, root, bench):
        stack, _ = put_stack_and_star(root)
        bench.look()
        assert bench.good_is_queued()
        batch = bench.ledger.batches.lease_next("worker")
        stack.rename(root / ".away")
        _, _, bad = Delivery(bench.ledger, root).prepare(batch, by_reference=False)
        assert len(bad) == 5
        assert "put the stack back" in bad["000001@good.mrcs"][1]
        bench.ledger.batches.withdraw(batch.batch_id, bad)
        assert bench.ledger.counts().particles["quarantined"] == 5
        (root / ".away").rename(stack)
        move(stack, "better.mrcs")
        bench.look()
        assert bench.ready() == 5
        assert bench.ledger.counts().particles["quarantined"] == 0
        assert particles(bench) == 5

    def test_while_ingest_was_down(self, root, ledger_path):
        first = Bench(root, ledger_path)
        stack, _ = put_stack_and_star(root)
        first.look()
        assert first.ready() == 5
        first.ledger.close()
        move(stack, "better.mrcs")
        again = Bench(root, ledger_path)
        again.look()
        assert is_ready(again, "better.mrcs")
        assert again.ready() == 5
        again.ledger.close()

    @pytest.mark.parametrize("looked_between", [True, False])
    def test_a_new_stack_under_the_old_name_counts(self, root, bench, looked_between):
        stack, _ = put_stack_and_star(root)
        bench.look()
        assert bench.ready() == 5
        move(stack, "better.mrcs")
        if looked_between:
            bench.look()
            assert is_ready(bench, "better.mrcs")
        put(stack, images(7, seed=3))
        bench.look()
        assert bench.ready() == particles(bench) == 12
        found, names = delivered(bench)
        assert_once(found, images(5), images(7, seed=3))
        assert names == {str(root / "good.mrcs"), str(root / "better.mrcs")}

    def test_two_that_change_their_names_with_each_other_are_what_they_were(self, root, bench):
        put(root / "a.mrcs", images(5, seed=1))
        put(root / "b.mrcs", images(7, seed=2))
        bench.look()
        assert bench.ready() == 12
        (root / "a.mrcs").rename(root / ".aside")
        (root / "b.mrcs").rename(root / "a.mrcs")
        (root / ".aside").rename(root / "b.mrcs")
        describe(root / "a.mrcs", 7)
        describe(root / "b.mrcs", 5)
        bench.look()
        assert particles(bench) == 12
        found, _ = delivered(bench)
        assert_once(found, images(5, seed=1), images(7, seed=2))
        assert bench.metrics.copies == 0


class TestCopied:
    def test_seen_in_the_same_scan(self, root, bench):
        put(root / "good.mrcs", images(5))
        put(root / "other" / "copy.mrcs", images(5))
        bench.look()
        assert is_ready(bench, "good.mrcs", "other/copy.mrcs")
        assert bench.ready() == particles(bench) == 5
        assert bench.metrics.copies == 1
        assert bench.ledger.counts().copies == 1
        found, _ = delivered(bench)
        assert_once(found, images(5))

    @pytest.mark.parametrize("link", [os.link, os.symlink, shutil.copy2])
    def test_linked(self, root, bench, link):
        put(root / "good.mrcs", images(5))
        bench.look()
        assert bench.ready() == 5
        link(root / "good.mrcs", root / "link.mrcs")
        describe(root / "link.mrcs", 5)
        bench.look()
        assert is_ready(bench, "link.mrcs")
        assert bench.ready() == particles(bench) == 5
        assert names_of(bench, "000003@good.mrcs") == {"good.mrcs", "link.mrcs"}

    def test_extracted_again_with_more_rows_in_its_star(self, root, bench):
        put(root / "job007" / "mic.mrcs", images(5))
        describe(root / "job007" / "mic.mrcs", 3)
        bench.look()
        assert bench.ready() == 3
        put(root / "job012" / "mic.mrcs", images(5))
        bench.look()
        assert bench.ready() == particles(bench) == 5
        found, names = delivered(bench)
        assert_once(found, images(5))
        assert names == {str(root / "job007" / "mic.mrcs")}

    def test_extracted_again_with_some_picks_gone_and_some_new(self, root, bench):
        old, new = images(9), images(4, seed=1)
        put(root / "job007" / "mic.mrcs", old)
        bench.look()
        assert bench.ready() == 9
        again = np.concatenate([old[8:9], new[:2], old[:5], old[6:8], new[2:]])
        put(root / "job012" / "mic.mrcs", again)
        bench.look()
        assert is_ready(bench, "job012/mic.mrcs")
        assert bench.ready() == particles(bench) == 13
        assert bench.metrics.copies == 1
        shutil.rmtree(root / "job007")
        bench.look()
        (root / "job012" / "mic.mrcs").rename(root / "job012" / "renamed.mrcs")
        bench.look()
        # all but the one that was left out: that is gone
        bench.batcher.make(time.monotonic(), flush=True)
        batch = bench.ledger.batches.lease_next("worker")
        _, _, bad = Delivery(bench.ledger, root).prepare(batch, by_reference=False)
        assert list(bad) == ["000006@job007/mic.mrcs"]
        bench.ledger.batches.withdraw(batch.batch_id, bad)
        found, _ = delivered(bench)
        assert_once(found, again)

    def test_the_same_image_twice_in_one_stack(self, root, bench):
        put(root / "twice.mrcs", images(5)[[0, 1, 2, 1, 4, 0]])
        bench.look()
        assert is_ready(bench, "twice.mrcs")
        assert bench.ready() == particles(bench) == 4
        assert bench.metrics.copies == 0

    def test_shorter_while_it_is_being_copied(self, root, bench):
        put(root / "good.mrcs", images(9))
        bench.look()
        assert bench.ready() == 9
        for n in (4, 6, 9):
            put(root / "copy.mrcs", images(9)[:n])
            bench.look()
            assert bench.ready() == particles(bench) == 9

    def test_grown_is_read_where_it_is_longer(self, root, bench):
        put(root / "good.mrcs", images(5))
        put(root / "later.mrcs", images(5))
        bench.look()
        put(root / "later.mrcs", np.concatenate([images(5), images(3, seed=1)]))
        bench.look()
        assert bench.ready() == particles(bench) == 8
        found, names = delivered(bench)
        assert_once(found, images(5), images(3, seed=1))
        assert names == {str(root / "good.mrcs"), str(root / "later.mrcs")}

    def test_grown_and_the_original_too(self, root, bench):
        more, other = images(3, seed=1), images(2, seed=2)
        put(root / "good.mrcs", images(5))
        bench.look()
        assert bench.ready() == 5
        put(root / "copy.mrcs", np.concatenate([images(5), more]))
        bench.look()
        assert bench.ready() == 8
        put(root / "good.mrcs", np.concatenate([images(5), other]))
        bench.look()
        assert bench.ready() == particles(bench) == 10
        found, names = delivered(bench)
        assert_once(found, images(5), more, other)
        assert names == {str(root / "good.mrcs"), str(root / "copy.mrcs")}

    @pytest.mark.parametrize("by_reference", [True, False])
    def test_read_from_the_copy_when_the_original_is_gone(self, root, bench, by_reference):
        put(root / "good.mrcs", images(5))
        put(root / "copy.mrcs", images(5))
        bench.look()
        assert is_ready(bench, "good.mrcs", "copy.mrcs")
        (root / "good.mrcs").unlink()
        found, names = delivered(bench, by_reference=by_reference)
        assert names == {str(root / "copy.mrcs")}
        if not by_reference:
            assert_once(found, images(5))

    def test_never_read_from_what_lies_under_its_name_now(self, root, bench):
        put(root / "good.mrcs", images(5))
        put(root / "later.mrcs", images(5))
        bench.look()
        assert is_ready(bench, "good.mrcs", "later.mrcs")
        # nobody has looked since; and by its name it is the first to be asked
        write_stack(root / "good.mrcs", images(5, seed=9), PIXEL_SIZE)
        found, names = delivered(bench)
        assert_once(found, images(5))
        assert names == {str(root / "later.mrcs")}

    @pytest.mark.parametrize("noticed", [True, False])
    def test_put_back_as_it_was_when_it_had_been_set_aside(self, root, bench, tmp_path, noticed):
        put(root / "good.mrcs", images(5))
        bench.look()
        (root / "good.mrcs").rename(tmp_path / "away.mrcs")
        if noticed:
            bench.look()
        bench.batcher.make(time.monotonic(), flush=True)
        batch = bench.ledger.batches.lease_next("worker")
        _, _, bad = Delivery(bench.ledger, bench.root).prepare(batch, by_reference=True)
        assert {kind for kind, _ in bad.values()} == {"stack_missing"}
        bench.ledger.batches.withdraw(batch.batch_id, bad)
        bench.look()
        assert len(bench.ledger.quarantined()) == 5
        (tmp_path / "away.mrcs").rename(root / "good.mrcs")
        bench.look()
        assert bench.ledger.quarantined() == []
        found, _ = delivered(bench)
        assert_once(found, images(5))

    def test_renamed_when_the_original_is_gone(self, root, bench):
        put(root / "good.mrcs", images(5))
        bench.look()
        assert bench.ready() == 5
        shutil.copy(root / "good.mrcs", root / "copy.mrcs")  # no manifest names it
        (root / "good.mrcs").unlink()
        bench.look()
        (root / "copy.mrcs").rename(root / "last.mrcs")
        bench.look()
        assert bench.ready() == particles(bench) == 5
        found, names = delivered(bench)
        assert_once(found, images(5))
        assert names == {str(root / "last.mrcs")}

    def test_what_was_set_aside_with_the_original_comes_back_with_some_of_its_images(self, root, bench):
        stack, star = put_stack_and_star(root)
        bench.look()
        assert bench.good_is_queued()
        batch = bench.ledger.batches.lease_next("worker")
        stack.unlink()
        star.unlink()
        _, _, bad = Delivery(bench.ledger, root).prepare(batch, by_reference=False)
        bench.ledger.batches.withdraw(batch.batch_id, bad)
        put(root / "some.mrcs", images(5)[[3, 1]])
        bench.look()
        assert bench.ready() == 2
        assert bench.ledger.counts().particles["quarantined"] == 3
        assert particles(bench) == 5
        found, _ = delivered(bench)
        assert_once(found, images(5)[[3, 1]])

    def test_a_person_s_retry_finds_the_copy(self, root, bench):
        stack, _ = put_stack_and_star(root)
        put(root / "copy.mrcs", images(5))
        bench.look()
        assert is_ready(bench, "copy.mrcs")
        stack.unlink()
        identity = "000002@good.mrcs"
        bench.look()
        assert bench.good_is_queued()
        batch = bench.ledger.batches.lease_next("worker")
        bench.ledger.batches.withdraw(batch.batch_id, {identity: ("numerical_error", "for the test")})
        assert bench.ready() == 4
        bench.collector.retry("good.mrcs", identity, time.monotonic())
        bench.look()
        assert bench.ready() == 5
        found, _ = delivered(bench)
        assert_once(found, images(5))

    def test_known_again_after_a_restart(self, root, ledger_path):
        first = Bench(root, ledger_path)
        put(root / "good.mrcs", images(5))
        put(root / "copy.mrcs", images(5))
        first.look()
        assert is_ready(first, "good.mrcs", "copy.mrcs")
        first.ledger.close()
        put(root / "third.mrcs", images(5)[::-1])
        again = Bench(root, ledger_path)
        again.look()
        assert is_ready(again, "third.mrcs")
        again.look()
        assert particles(again) == 5
        assert again.metrics.copies == 1  # the third; the other was told before
        assert again.ledger.counts().copies == 2
        again.ledger.close()


class TestWrittenAnew:
    def test_its_particles_are_what_they_were(self, root, bench):
        put(root / "good.mrcs", images(5))
        bench.look()
        assert bench.ready() == 5
        put(root / "good.mrcs", images(6, seed=1))
        bench.look()
        assert bench.ready() == particles(bench) == 6
        found, _ = delivered(bench)
        assert_once(found, images(6, seed=1))

    def test_and_again_and_back(self, root, bench):
        for seed in (0, 1, 2, 1, 0):
            put(root / "good.mrcs", images(5, seed=seed))
            bench.look()
            assert bench.ready() == particles(bench) == 5
        found, _ = delivered(bench)
        assert_once(found, images(5))

    @pytest.mark.parametrize("named", [True, False])
    def test_while_a_copy_of_the_old_lies_elsewhere(self, root, bench, named):
        put(root / "good.mrcs", images(5))
        bench.look()
        assert bench.ready() == 5
        shutil.copy(root / "good.mrcs", root / "copy.mrcs")
        if named:
            describe(root / "copy.mrcs", 5)
        put(root / "good.mrcs", images(5, seed=1))
        bench.look()
        assert bench.ready() == particles(bench) == 10
        found, _ = delivered(bench)
        assert_once(found, images(5), images(5, seed=1))
        identities = {i for (i,) in bench.ledger._connection.execute("SELECT identity FROM particles")}
        assert "000001@good.mrcs (2)" in identities

    def test_while_one_that_nobody_names_was_there_before(self, root, bench):
        write_stack(root / "unnamed.mrcs", images(5), PIXEL_SIZE)
        bench.look()
        put(root / "good.mrcs", images(5))
        bench.look()
        put(root / "good.mrcs", images(5, seed=1))
        bench.look()
        assert bench.ready() == particles(bench) == 10
        found, _ = delivered(bench)
        assert_once(found, images(5), images(5, seed=1))

    def test_with_a_pick_more_in_the_middle(self, root, bench):
        old = images(5)
        put(root / "good.mrcs", old)
        bench.look()
        assert bench.ready() == 5
        pixels = np.concatenate([old[:2], images(1, seed=1), old[2:]])
        put(root / "good.mrcs", pixels)
        bench.look()
        assert bench.ready() == particles(bench) == 6
        found, _ = delivered(bench)
        assert_once(found, pixels)

    def test_with_one_new_image_twice(self, root, bench):
        put(root / "good.mrcs", images(2))
        bench.look()
        new = images(1, seed=1)
        put(root / "good.mrcs", np.concatenate([new, new]))
        bench.look()
        query = "SELECT DISTINCT particle FROM places WHERE image = ?"
        assert len(bench.ledger._connection.execute(query, image_digests(new)).fetchall()) == 1

    @pytest.mark.parametrize(("name", "other"), [("a.mrcs", "b.mrcs"), ("b.mrcs", "a.mrcs")])
    def test_while_another_that_keeps_some_of_its_images_is_written_anew(self, root, bench, name, other):
        """Whichever is looked at first."""
        old = images(5)
        put(root / name, old)
        put(root / other, np.concatenate([old, images(3, seed=2)]))
        bench.look()
        assert particles(bench) == 8
        put(root / name, images(5, seed=1))
        put(root / other, old[:2])
        bench.look()
        assert particles(bench) == 10  # two of the old images are there still, and not written over
        known = bench.ledger.contents.particles_of(image_digests(np.concatenate([old[:2], images(5, seed=1)])))
        assert len({k.particle for k in known.values()}) == 7

    @pytest.mark.parametrize(("name", "other"), [("a.mrcs", "b.mrcs"), ("b.mrcs", "a.mrcs")])
    def test_what_has_its_images_now_is_looked_at_first(self, root, bench, name, other):
        """However little time there is at each step, and whichever comes first in the scan."""
        put(root / name, images(5))
        bench.look()
        (root / name).rename(root / other)  # no manifest names it
        put(root / name, images(5, seed=1))
        bench.look(40, budget_seconds=0.0)
        assert bench.ready() == particles(bench) == 10
        found, _ = delivered(bench)
        assert_once(found, images(5), images(5, seed=1))


class TestBlank:
    """Images of one value tell nothing: they are set aside for what they are, file by file."""

    def test_stacks_of_zeros_are_no_copies(self, root, bench):
        for name in ("a.mrcs", "b.mrcs"):
            put(root / name, np.zeros((5, 8, 8), np.float32))
        bench.look()
        assert len(bench.ledger.quarantined()) == 10
        assert {e.kind for e in bench.ledger.quarantined()} == {"stack_corrupt"}
        assert {e.path for e in bench.ledger.quarantined()} == {"a.mrcs", "b.mrcs"}
        assert bench.metrics.copies == 0

    def test_a_stack_that_begins_like_one_of_zeros(self, root, bench):
        put(root / "a.mrcs", np.zeros((1, 8, 8), np.float32))
        bench.look()
        assert len(bench.ledger.quarantined()) == 1
        put(root / "b.mrcs", np.concatenate([np.zeros((2, 8, 8), np.float32), images(3)]))
        bench.look()
        assert bench.ready() == 3
        assert sorted(e.identity for e in bench.ledger.quarantined()) == [
            "000001@a.mrcs",
            "000001@b.mrcs",
            "000002@b.mrcs",
        ]
        assert bench.metrics.copies == 0


# what version 3 knew: which images a stack began with, by its first name, and where those lie that were renamed
TO_VERSION_3 = """
CREATE TABLE held AS SELECT name AS stack, first, sample, sections, number FROM files JOIN contents ON number = content;
DROP TABLE places; DROP TABLE files; DROP TABLE contents;
CREATE TABLE contents (
    stack TEXT NOT NULL, first BLOB NOT NULL, sample BLOB NOT NULL, sections INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (stack, first)
) WITHOUT ROWID;
CREATE INDEX contents_first ON contents (first, number);
CREATE INDEX contents_number ON contents (number);
CREATE TABLE places (stack TEXT PRIMARY KEY, name TEXT UNIQUE) WITHOUT ROWID;
INSERT INTO contents SELECT * FROM held; DROP TABLE held;
UPDATE meta SET value = '3' WHERE key = 'schema_version';
"""
TO_VERSION_2 = (
    "DROP TABLE places; DROP TABLE files; DROP TABLE contents; UPDATE meta SET value = '2' WHERE key = 'schema_version'"
)


@pytest.mark.parametrize("script", [TO_VERSION_3, TO_VERSION_2])
def test_a_ledger_of_a_version_before_learns_what_its_stacks_hold(root, ledger_path, script):
    first = Bench(root, ledger_path)
    stack, _ = put_stack_and_star(root)
    put(root / "other.mrcs", images(9, seed=2))
    first.look()
    assert first.ready() == 14
    first.ledger.close()
    with sqlite3.connect(ledger_path) as old:
        old.executescript(script)
    old.close()
    reader = Ledger(ledger_path, access="read")
    assert reader.counts().particles["ready"] == 14
    assert reader.counts().copies == 0
    reader.close()
    second = Bench(root, ledger_path)
    assert second.ledger._database.meta("schema_version") == str(SCHEMA_VERSION)
    connection = second.ledger._connection
    second.look()
    assert connection.execute("SELECT count(image) FROM places").fetchone()[0] == 14
    move(stack, "better.mrcs")
    put(root / "some.mrcs", images(9, seed=2)[[7, 2]])
    second.look()
    assert is_ready(second, "better.mrcs", "some.mrcs")
    second.look()
    assert second.ready() == particles(second) == 14
    found, _ = delivered(second)
    assert_once(found, images(5), images(9, seed=2))
    second.ledger.close()


def test_a_ledger_of_version_3_knows_what_was_renamed(root, ledger_path):
    first = Bench(root, ledger_path)
    stack, _ = put_stack_and_star(root)
    first.look()
    assert first.ready() == 5
    first.ledger.close()
    with sqlite3.connect(ledger_path) as old:
        old.executescript(TO_VERSION_3)
        old.execute("INSERT INTO places VALUES ('good.mrcs', 'better.mrcs')")
    old.close()
    move(stack, "better.mrcs")
    put(stack, images(5, seed=1))  # another under its name
    second = Bench(root, ledger_path)
    second.look()
    assert second.ready() == 10
    second.look()
    assert particles(second) == 10
    found, _ = delivered(second)
    assert_once(found, images(5), images(5, seed=1))
    second.ledger.close()


def test_rows_of_one_manifest_for_all_copies(root, bench):
    for folder in ("x", "y"):
        (root / folder).mkdir()
        write_stack(root / folder / "a.mrcs", images(5), PIXEL_SIZE)
    rows = [*all_rows("x/a.mrcs", 5), *all_rows("y/a.mrcs", 5)]
    (root / "joined.star").write_text(star_text(rows), encoding="utf-8")
    bench.look()
    assert is_ready(bench, "x/a.mrcs", "y/a.mrcs")
    assert bench.ready() == particles(bench) == 5
