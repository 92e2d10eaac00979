"""A worker that has said a proper Hello and then asks for more than it reads, or says that it cannot read."""

import contextlib
import errno
import os
import threading

import numpy as np
import pytest
import zmq

from streamrecon.ingest import feed_workers
from streamrecon.ingest.batcher import Batcher
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.metrics import NoIngestMetrics
from streamrecon.io import mrc, read_sections, write_stack
from streamrecon.transport import feed_schema
from streamrecon.transport.feed_client import FeedClient
from streamrecon.transport.table_wire import OpticsWire, ParticleRow
from tests.integration.feed_helpers import fill, states, take, until
from tests.integration.ingest_helpers import PIXEL_SIZE, images
from tests.ledgers import add_particles

BOX, STACKS, N = 256, 40, 4
BATCH_BYTES = N * 4 * BOX**2  # a megabyte
MOST = 8 * BATCH_BYTES


@pytest.fixture
def large(tmp_path):
    """A queue of forty batches of a megabyte each, all of one stack."""
    write_stack(tmp_path / "s.mrcs", images(N, BOX), PIXEL_SIZE)
    optics = OpticsWire("group1", 300.0, 2.7, 0.1, PIXEL_SIZE, BOX)
    rows = [
        ParticleRow(f"s{s}.mrcs", i, optics, (15000.5, 14800.25, 30.5, None)) for s in range(STACKS) for i in range(N)
    ]
    for s in range(STACKS):
        (tmp_path / f"s{s}.mrcs").hardlink_to(tmp_path / "s.mrcs")
    with Ledger(tmp_path / LEDGER_NAME, "test") as ledger:
        add_particles(ledger, {row.identity: row for row in rows})
        Batcher(ledger, NoIngestMetrics(), N, 0.0).make(0.0, flush=True)


class Hostile:
    """Says Hello and gives credits, and reads nothing: the least that its own ZeroMQ takes is one message."""

    def __init__(self, context, endpoint, name="hostile", credits=10_000):
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.RCVHWM, 1)
        self.socket.set(zmq.RCVBUF, 4096)
        self.socket.connect(endpoint)
        self.hello(name, credits)

    def hello(self, name, credits=10_000):
        self.say(
            feed_schema.Hello(
                version=feed_schema.PROTOCOL_VERSION, worker_id=name, hostname="elsewhere", credits=credits
            )
        )

    def say(self, message):
        self.socket.send_multipart(feed_schema.encode(message))


@pytest.fixture
def hostile():
    with zmq.Context() as context, contextlib.ExitStack() as stack:

        def connect(endpoint, **options):
            peer = Hostile(context, endpoint, **options)
            stack.callback(peer.socket.close)
            return peer

        yield connect


def leased(tmp_path):
    return states(tmp_path).get("leased", 0)


def held(server):
    """Return how many batches ZeroMQ keeps in the server's memory; what the kernel has taken depends on the host."""
    waiting = [w for route in list(server.feed._waiting._waiting.values()) for w in list(route)]
    return sum(size for size, tracker in waiting if not tracker.done) / BATCH_BYTES


def quiet(server, rounds=6):
    """Let the server's loop come round so many times."""
    at = server.rounds
    until(lambda: server.rounds >= at + rounds)


def test_who_does_not_read_is_sent_no_more_than_memory_bears(tmp_path, large, serve, hostile, monkeypatch):
    monkeypatch.setattr(feed_workers, "MAX_WAITING_BYTES", MOST)
    server = serve()
    peer = hostile(server.endpoint)
    until(lambda: leased(tmp_path) >= 8)
    for _ in range(5):
        peer.say(feed_schema.Credit(10_000))
        quiet(server)
        assert held(server) < 9
    until(lambda: held(server) > 7)  # it is sent as much, however slowly the kernel takes what it will
    # another Hello on the same socket, under other names, changes nothing: what is under way is the socket's
    for k in range(5):
        peer.hello(f"hostile{k}")
        quiet(server)
        assert held(server) < 9
    # and one that reads gets all the rest meanwhile
    with FeedClient(server.endpoint, "good", hostname="far") as client:
        taken = 0

        def rest():
            nonlocal taken
            if (item := client.poll(0.05)) is not None:
                batch_id, batch = item
                np.testing.assert_array_equal(batch.images, images(N, BOX))
                client.ack([batch_id])
                taken += 1
            return states(tmp_path) == {"folded": taken, "leased": STACKS - taken} and item is None

        until(rest)
        assert taken > 0
        assert held(server) < 9


def test_all_together_are_bounded_too(tmp_path, large, serve, hostile, monkeypatch):
    monkeypatch.setattr(feed_workers, "MAX_WAITING_BYTES", 3 * BATCH_BYTES)
    monkeypatch.setattr(feed_workers, "MAX_WAITING_BYTES_OF_ALL", 4 * BATCH_BYTES)
    server = serve()
    peers = [hostile(server.endpoint, name=f"hostile{k}") for k in range(4)]
    until(lambda: server.feed.worker_count == len(peers))
    for peer in peers:
        peer.say(feed_schema.Credit(10_000))
    until(lambda: held(server) > 4)
    quiet(server)
    # one may always be sent to each
    assert held(server) < 4 + len(peers) + 0.5


def test_credits_are_no_more_than_the_configuration_may_say(tmp_path, serve, hostile):
    fill(tmp_path, stacks=1)
    server = serve()
    peer = hostile(server.endpoint)
    until(lambda: leased(tmp_path) == 1)
    (worker,) = server.feed._workers.values()
    until(lambda: worker.credits < feed_workers.MAX_CREDITS)  # it is lent in the ledger before it is counted
    for _ in range(3):
        peer.say(feed_schema.Credit(10_000))
    until(lambda: worker.credits >= feed_workers.MAX_CREDITS)
    quiet(server)
    assert worker.credits == feed_workers.MAX_CREDITS


def test_a_batch_sent_again_with_its_pixels_costs_a_credit(tmp_path, serve):
    """Or a worker that cannot read would hold more and more."""
    fill(tmp_path, stacks=12, n=2, batch_size=2)
    server = serve()
    with FeedClient(server.endpoint, "w", credits=2, root=tmp_path / "elsewhere") as client:
        for batch_id, _ in take(client, 6):
            client.ack([batch_id])
        until(lambda: states(tmp_path) == {"folded": 6, "leased": 2, "queued": 4})
        quiet(server)
        assert states(tmp_path) == {"folded": 6, "leased": 2, "queued": 4}


def test_after_some_batches_with_pixels_it_is_asked_to_read_again(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(feed_workers, "BATCHES_WITH_PIXELS", 3)
    fill(tmp_path, stacks=12, n=2, batch_size=2)
    server = serve()
    read, unreadable = [], ["s1.mrcs"]

    def reading(path, sections, **options):
        if path.name in unreadable:
            raise OSError(5, "Input/output error", str(path))
        read.append(path.name)
        return read_sections(path, sections, **options)

    monkeypatch.setattr("streamrecon.transport.feed_client.read_sections", reading)
    with FeedClient(server.endpoint, "w", credits=1) as client:
        taken = take(client, 12)
    assert sorted(batch_id for batch_id, _ in taken) == list(range(1, 13))
    assert len(read) == 12 - 3
    assert "s1.mrcs" not in read
    assert "s11.mrcs" in read


@pytest.mark.parametrize("call", ["open", "fstat"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_worker_that_may_not_look_asks_for_the_pixels(tmp_path, serve, monkeypatch, call, number):
    """Root may look anywhere, so the refusals are made up; of the worker only, which is this thread."""
    fill(tmp_path)
    server = serve()
    refused, real = [], getattr(os, call)

    def refusing(*arguments, **options):
        if threading.current_thread() is threading.main_thread():
            refused.append(arguments)
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    with FeedClient(server.endpoint, "w") as client:
        with monkeypatch.context() as patch:
            patch.setattr(mrc.os, call, refusing)
            taken = take(client, 2)
        assert refused
        for (_, batch), s in zip(sorted(taken, key=lambda t: t[0]), range(2), strict=True):
            np.testing.assert_array_equal(batch.images, images(5, seed=s))
