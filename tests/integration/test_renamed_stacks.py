"""A stack that was renamed is the same stack: by counts and by pixels."""

import pytest

from streamrecon.ingest.delivery import Delivery
from tests.integration.copy_helpers import assert_once, delivered, describe, is_ready, move, names_of, particles, put
from tests.integration.ingest_helpers import Bench, images, put_stack_and_star


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
