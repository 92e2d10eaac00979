"""An image counts once, wherever it lies: copied, linked, extracted again, grown; by counts and by pixels."""

import os
import shutil

import numpy as np
import pytest

from streamrecon.ingest.delivery import Delivery
from streamrecon.io import write_stack
from tests.integration.copy_helpers import assert_once, delivered, describe, is_ready, names_of, particles, put
from tests.integration.ingest_helpers import PIXEL_SIZE, Bench, all_rows, images, put_stack_and_star, star_text


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
        bench.batcher.make(bench.now, flush=True)
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
        bench.batcher.make(bench.now, flush=True)
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
        bench.collector.retry("good.mrcs", identity, bench.now)
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


def test_rows_of_one_manifest_for_all_copies(root, bench):
    for folder in ("x", "y"):
        (root / folder).mkdir()
        write_stack(root / folder / "a.mrcs", images(5), PIXEL_SIZE)
    rows = [*all_rows("x/a.mrcs", 5), *all_rows("y/a.mrcs", 5)]
    (root / "joined.star").write_text(star_text(rows), encoding="utf-8")
    bench.look()
    assert is_ready(bench, "x/a.mrcs", "y/a.mrcs")
    assert bench.ready() == particles(bench) == 5
