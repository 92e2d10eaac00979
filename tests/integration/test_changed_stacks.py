"""A stack that is written anew, exchanged or touched while its batch is under way: whose pixels the worker gets."""

import contextlib
import os
import time

import numpy as np
import pytest

from streamrecon.ingest import delivery
from streamrecon.ingest.delivery import Delivery
from streamrecon.ingest.feed import FeedServer
from streamrecon.ingest.ledger_contents import STACK_MISSING
from streamrecon.io import read_sections
from streamrecon.transport.feed_client import FeedClient
from tests.integration.copy_helpers import CLOCK, assert_once, put
from tests.integration.feed_helpers import FREE_PORT
from tests.integration.ingest_helpers import images

N = 5


@pytest.fixture
def under_way(root, bench):
    """Two stacks, their batches sent by reference and waiting at the worker; returns what goes on with them."""
    for name, seed in (("a.mrcs", 1), ("b.mrcs", 2)):
        put(root / name, images(N, seed=seed))
    bench.batcher._batch_size = N
    bench.look()
    assert len(bench.batcher.make(bench.now, flush=True)) == 2
    with contextlib.ExitStack() as stack:
        yield UnderWay(bench, stack)


class UnderWay:
    """Drives server and client by turns, in one thread."""

    def __init__(self, bench, stack):
        self._bench = bench
        self._feed = FeedServer(bench.ledger, bench.root, FREE_PORT, 60.0, bench.metrics)
        stack.callback(self._feed.close)
        self._client = stack.enter_context(FeedClient(self._feed.endpoint, "w", root=bench.root))
        self.until(lambda: self._client._link._waiting == 2)

    def until(self, condition):
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end
            self._feed.poll(0.01)

    def taken(self):
        """Return the images by identity that the worker gets, until there is nothing more to be had."""
        found = {}

        def settled():
            item = self._client.poll(0.01)
            if item is not None:
                batch_id, batch = item
                assert not found.keys() & set(batch.identities)
                found.update(zip(batch.identities, batch.images, strict=True))
                self._client.ack([batch_id])
            counts = self._bench.ledger.counts()
            return item is None and counts.particles["queued"] == 0

        self.until(settled)
        return found


def identities(name):
    return [f"{i + 1:06d}@{name}" for i in range(N)]


def as_they_were():
    stacks = (("a.mrcs", 1), ("b.mrcs", 2))
    return {i: image for name, seed in stacks for i, image in zip(identities(name), images(N, seed=seed), strict=True)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for identity, image in expected.items():
        np.testing.assert_array_equal(found[identity], image, err_msg=identity)


def exchange(root):
    """Write each of the two anew in place, with the images of the other."""
    put(root / "a.mrcs", images(N, seed=2))
    put(root / "b.mrcs", images(N, seed=1))


def touch(path):
    stamp = next(CLOCK)
    os.utime(path, (stamp, stamp))


def in_the_ledger(bench):
    rows = bench.ledger._connection.execute("SELECT identity, state FROM particles").fetchall()
    return dict(rows)


class TestByReference:
    """The worker has the references and has not read the stacks yet."""

    def test_exchanged_and_examined_each_image_counts_once(self, root, bench, under_way):
        exchange(root)
        bench.look()
        assert_same(under_way.taken(), as_they_were())
        assert in_the_ledger(bench).keys() == as_they_were().keys()
        assert bench.metrics.kinds == []

    def test_exchanged_and_not_examined_they_wait_until_they_are(self, root, bench, under_way):
        exchange(root)
        assert under_way.taken() == {}
        bench.look()
        bench.batcher.make(bench.now, flush=True)
        # none was folded under its old name, so they may have the names that they have now
        found = under_way.taken()
        assert_once(list(found.values()), images(N, seed=1), images(N, seed=2))
        assert bench.ledger.quarantined() == []

    def test_written_anew_its_pixels_are_those_that_were_examined(self, root, bench, under_way):
        put(root / "a.mrcs", images(N, seed=3))
        found = under_way.taken()
        assert found.keys() == set(identities("b.mrcs"))
        bench.look()
        bench.batcher.make(bench.now, flush=True)
        found |= under_way.taken()
        new = dict(zip(identities("a.mrcs"), images(N, seed=3), strict=True))
        assert_same(found, as_they_were() | new)
        assert bench.ledger.quarantined() == []

    def test_a_mere_touch_sets_nothing_aside(self, root, bench, under_way):
        touch(root / "a.mrcs")
        assert_same(under_way.taken(), as_they_were())
        assert bench.metrics.kinds == []
        assert bench.ledger.counts().batches == {"folded": 2}


class TestByPixels:
    """Ingest reads the stack itself, and sees it change at the worst moment: after it has looked where the image is."""

    @pytest.fixture
    def batch(self, root, bench):
        put(root / "a.mrcs", images(N, seed=1))
        bench.look()
        bench.batcher.make(bench.now, flush=True)
        return bench.ledger.batches.lease_next("w")

    @pytest.fixture
    def just_before(self, monkeypatch):
        def do(act):
            acts = [act]

            def reading(path, *arguments, **options):
                if acts:
                    acts.pop()()
                return read_sections(path, *arguments, **options)

            monkeypatch.setattr(delivery, "read_sections", reading)

        return do

    def test_touched(self, root, bench, batch, just_before):
        just_before(lambda: touch(root / "a.mrcs"))
        _, pixels, bad = Delivery(bench.ledger, root).prepare(batch, by_reference=False)
        assert bad == {}
        np.testing.assert_array_equal(pixels, images(N, seed=1))

    def test_written_anew_but_for_one_image(self, root, bench, batch, just_before):
        new = images(N, seed=3)
        new[2] = images(N, seed=1)[2]
        just_before(lambda: put(root / "a.mrcs", new))
        _, _, bad = Delivery(bench.ledger, root).prepare(batch, by_reference=False)
        assert bad.keys() == set(identities("a.mrcs")) - {"000003@a.mrcs"}
        assert {kind for kind, _ in bad.values()} == {STACK_MISSING}
        assert str(root / "a.mrcs") in bad["000001@a.mrcs"][1]

    @pytest.mark.parametrize("anew", [True, False])
    def test_of_images_without_a_digest_the_stack_as_a_whole_tells(self, root, bench, batch, anew):
        """Those that a ledger of an earlier version knows."""
        bench.ledger._connection.execute("UPDATE places SET image = NULL")
        put(root / "a.mrcs", images(N, seed=3 if anew else 1))
        _, pixels, bad = Delivery(bench.ledger, root).prepare(batch, by_reference=False)
        assert len(bad) == (N if anew else 0)
        if not anew:
            np.testing.assert_array_equal(pixels, images(N, seed=1))

    def test_a_reference_is_to_the_file_in_which_the_images_were_found(self, root, bench, batch):
        touch(root / "a.mrcs")
        message, _, bad = Delivery(bench.ledger, root).prepare(batch, by_reference=True)
        assert bad == {}
        status = (root / "a.mrcs").stat()
        assert (message.stack_bytes, message.stack_mtimes_ns) == ([status.st_size], [status.st_mtime_ns])
