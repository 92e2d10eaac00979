"""Several workers on one feed: who has what, and who may not have it."""

import contextlib
import time

import pytest

from streamrecon.errors import CheckpointIncompatible, TransportError
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.transport.feed_client import FeedClient
from tests.integration.feed_helpers import fill, states, take, until


class TestSeveralWorkers:
    def test_each_batch_goes_to_one_and_those_of_one_that_left_to_the_others(self, tmp_path, serve):
        fill(tmp_path, stacks=20, n=2, batch_size=2)
        server = serve(lease_seconds=60.0)
        folded = {}
        with contextlib.ExitStack() as stack:
            one, two = (
                stack.enter_context(FeedClient(server.endpoint, name, credits=2, hostname=host))
                for name, host in (("one", None), ("two", "another-host"))
            )
            with FeedClient(server.endpoint, "leaving", credits=2) as leaving:
                lost = [batch_id for batch_id, _ in take(leaving, 2)]
                until(lambda: server.feed.worker_count == 3)
            end = time.monotonic() + 120
            while len(folded) < 20:
                assert time.monotonic() < end, folded
                for name, client in (("one", one), ("two", two)):
                    item = client.poll(0.02)
                    if item is not None:
                        batch_id, batch = item
                        assert batch_id not in folded, "lent twice"
                        folded[batch_id] = (name, batch.identities)
                        client.ack([batch_id])
        assert {name for name, _ in folded.values()} == {"one", "two"}
        assert set(lost) < set(folded)
        identities = [identity for _, batch in folded.values() for identity in batch]
        assert sorted(identities) == sorted(f"{i:06d}@s{s}.mrcs" for s in range(20) for i in (1, 2))
        until(lambda: states(tmp_path) == {"folded": 20})
        with Ledger(tmp_path / LEDGER_NAME, access="read") as ledger:
            filed = {i: ledger.batches.get(i).worker for i in folded}
        assert filed == {i: name for i, (name, _) in folded.items()}

    def test_what_one_holds_is_bounded_by_its_credits_while_another_works(self, tmp_path, serve):
        """Back-pressure is each worker's own: one that stands still keeps a few batches, not the stream."""
        fill(tmp_path, stacks=12, n=2, batch_size=2)
        server = serve()
        with FeedClient(server.endpoint, "still", credits=2), FeedClient(server.endpoint, "quick", credits=2) as quick:
            until(lambda: server.feed.worker_count == 2)
            until(lambda: states(tmp_path).get("leased") == 4)
            for batch_id, _ in take(quick, 10):
                quick.ack([batch_id])
            until(lambda: states(tmp_path) == {"folded": 10, "leased": 2})
            assert quick.poll(0.3) is None


def test_batches_of_another_worker_are_refused(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with FeedClient(server.endpoint, "w1") as first:
        take(first, 2)
        first.ack([1])
        until(lambda: states(tmp_path) == {"folded": 1, "leased": 1})
        with (
            FeedClient(server.endpoint, "w2", folded=[1], session=first.session) as second,
            pytest.raises(CheckpointIncompatible, match="w2"),
        ):
            second.poll(60)


def test_second_worker_of_the_same_name_takes_over(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with FeedClient(server.endpoint, "w") as first:
        take(first, 2)
        with FeedClient(server.endpoint, "w") as second:
            assert [i for i, _ in take(second, 2)] == [1, 2]
            with pytest.raises(TransportError, match="another worker"):
                first.poll(60)
