"""The feed over real sockets: what is lent, lost, sent again and folded."""

import time

import numpy as np
import pytest
import zmq

from streamrecon.errors import CheckpointIncompatible, IngestError, TransportError
from streamrecon.ingest.feed import FeedServer
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.io import read_sections
from streamrecon.transport import feed_schema
from streamrecon.transport.feed_client import FeedClient
from tests.integration.feed_helpers import crash, fill, lasting_endpoint, states, take, until
from tests.integration.ingest_helpers import PIXEL_SIZE


@pytest.mark.parametrize("hostname", [None, "another-host"], ids=["by_reference", "pixels"])
def test_batches_come_in_order_with_their_images(tmp_path, serve, hostname):
    fill(tmp_path)
    server = serve()
    with FeedClient(server.endpoint, "w", hostname=hostname) as client:
        (id_1, batch_1), (id_2, batch_2) = take(client, 2)
        assert (id_1, id_2) == (1, 2)
        assert batch_1.identities == tuple(f"{i:06d}@s0.mrcs" for i in range(1, 6))
        np.testing.assert_array_equal(batch_1.images, read_sections(tmp_path / "s0.mrcs", range(5)))
        np.testing.assert_array_equal(batch_2.images, read_sections(tmp_path / "s1.mrcs", range(5)))
        assert batch_1.images.flags.writeable
        assert batch_1.table.defocus_u_angstrom.tolist() == [15000.5] * 5
        assert np.isnan(batch_1.table.phase_shift_degrees).all()
        assert batch_1.table.optics_groups[0].pixel_size_angstrom == PIXEL_SIZE
        until(lambda: client.poll(0.05) is None and client.paused)
        assert client.session
        client.ack([1, 2])
        until(lambda: states(tmp_path) == {"folded": 2})


def test_stack_not_seen_by_the_worker_comes_as_pixels(tmp_path, serve, monkeypatch):
    fill(tmp_path)
    server = serve()
    from streamrecon.transport import feed_client

    def unreadable(path, indices, **options):
        raise IngestError(f"{path}: not here")

    monkeypatch.setattr(feed_client, "read_sections", unreadable)
    with FeedClient(server.endpoint, "w") as client:
        taken = take(client, 2)
        assert sorted(i for i, _ in taken) == [1, 2]
        np.testing.assert_array_equal(dict(taken)[1].images, read_sections(tmp_path / "s0.mrcs", range(5)))
        client.ack([1, 2])
        until(lambda: states(tmp_path) == {"folded": 2})


def test_batch_that_nobody_can_read_is_withdrawn_but_for_its_good_rows(tmp_path, serve):
    fill(tmp_path, batch_size=10)
    (tmp_path / "s0.mrcs").unlink()
    server = serve()
    with FeedClient(server.endpoint, "w") as client:
        until(lambda: client.poll(0.05) is None and states(tmp_path) == {"withdrawn": 1})
    with Ledger(tmp_path / LEDGER_NAME, access="read") as ledger:
        assert [e.identity for e in ledger.quarantined()] == [f"{i:06d}@s0.mrcs" for i in range(1, 6)]
        assert {e.kind for e in ledger.quarantined()} == {"stack_missing"}
        assert {r.stack_name for _, r in ledger.batches.ready_rows(10)} == {"s1.mrcs"}
        assert ledger.counts().particles["ready"] == 5


def test_worker_that_died_gets_the_rest_again(tmp_path, serve):
    fill(tmp_path, stacks=3)
    server = serve()
    first = FeedClient(server.endpoint, "w")
    before = dict(take(first, 3))
    session = first.session
    crash(first)
    # Batch 1 is in its checkpoint, but the Ack was never sent.
    with FeedClient(server.endpoint, "w", folded=[1], session=session) as second:
        again = take(second, 2)
        assert [i for i, _ in again] == [2, 3]
        assert [b.identities for _, b in again] == [before[2].identities, before[3].identities]
        assert states(tmp_path) == {"folded": 1, "leased": 2}
        assert second.poll(0.3) is None


def test_worker_that_fell_back_to_an_older_checkpoint(tmp_path, serve):
    fill(tmp_path, stacks=3)
    server = serve()
    with FeedClient(server.endpoint, "w") as client:
        take(client, 3)
        client.ack([1, 2, 3])
        session = client.session
        until(lambda: states(tmp_path) == {"folded": 3})
    with FeedClient(server.endpoint, "w", folded=[1], session=session) as client:
        assert [i for i, _ in take(client, 2)] == [2, 3]


def test_silent_worker_loses_its_lease(tmp_path, serve):
    fill(tmp_path)
    now = [0.0]
    server = serve(lease_seconds=5.0, clock=lambda: now[0])
    first = FeedClient(server.endpoint, "w1")
    taken = take(first, 2)
    crash(first)

    def silent_for(seconds):
        """Let so much time have passed since it was last heard, of which a part may still be under way."""
        if (worker := server.feed._workers.get("w1")) is not None:
            now[0] = worker.last_heard + seconds
        return worker is None

    with FeedClient(server.endpoint, "w2") as second:
        silent_for(4.9)
        assert second.poll(0.3) is None
        until(lambda: silent_for(5.1))
        again = take(second, 2)
    assert [(i, b.identities) for i, b in again] == [(i, b.identities) for i, b in taken]
    assert server.metrics.expired == 2


def test_long_fold_keeps_its_lease(tmp_path, serve):
    fill(tmp_path)
    now = [0.0]
    server = serve(lease_seconds=0.4, clock=lambda: now[0])
    with FeedClient(server.endpoint, "w") as client:
        take(client, 1)
        for _ in range(5):  # the fold: nothing is asked of the client, and its heartbeats come all the same
            now[0] += 0.3
            until(lambda: server.feed._workers["w"].last_heard == now[0])
        assert states(tmp_path) == {"leased": 2}
        assert [i for i, _ in take(client, 1)] == [2]
    assert server.metrics.expired == 0


def test_credits_bound_what_is_sent_ahead(tmp_path, serve):
    fill(tmp_path, stacks=5)
    server = serve()
    with FeedClient(server.endpoint, "w", credits=2) as client:
        until(lambda: states(tmp_path) == {"leased": 2, "queued": 3})
        time.sleep(0.2)
        assert states(tmp_path) == {"leased": 2, "queued": 3}
        take(client, 1)
        until(lambda: states(tmp_path) == {"leased": 3, "queued": 2})


def test_server_restart_goes_unnoticed(tmp_path, serve):
    fill(tmp_path, stacks=4)
    server = serve(endpoint=lasting_endpoint())
    with FeedClient(server.endpoint, "w", credits=2) as client:
        ids = [i for i, _ in take(client, 1)]
        server.stop()
        client.ack(ids)  # nobody hears it
        time.sleep(0.5)
        serve(endpoint=server.endpoint)
        ids += [i for i, _ in take(client, 3)]
        assert ids == [1, 2, 3, 4]
        until(lambda: states(tmp_path) == {"folded": 1, "leased": 3})
        assert client.poll(0.5) is None
        client.ack([2, 3, 4])
        until(lambda: states(tmp_path) == {"folded": 4})


def test_rejected_batch_is_quarantined(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with FeedClient(server.endpoint, "w") as client:
        take(client, 2)
        client.nack(1, "numerical_error", "every pose weight is NaN")
        client.ack([2])
        until(lambda: states(tmp_path) == {"folded": 1, "withdrawn": 1})
    with Ledger(tmp_path / LEDGER_NAME, access="read") as ledger:
        assert {(e.kind, e.reason) for e in ledger.quarantined()} == {("numerical_error", "every pose weight is NaN")}
        assert len(ledger.quarantined()) == 5


def test_checkpoint_of_another_session_is_refused(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with (
        FeedClient(server.endpoint, "w", folded=[1], session="another") as client,
        pytest.raises(CheckpointIncompatible, match="another"),
    ):
        client.poll(30)
    assert states(tmp_path) == {"queued": 2}


def test_garbage_is_counted_and_dropped(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(server.endpoint)
        for frames in ([b""], [b"\xff\xfe"], [b"{}"], [b'{"type":"hello"}'], [b"{}", b"x", b"y"], [b"[" * 5000]):
            socket.send_multipart(frames)
        old = feed_schema.Hello(version=99, worker_id="old", hostname="h", credits=1)
        socket.send_multipart(feed_schema.encode(old))
        socket.send_multipart(feed_schema.encode(feed_schema.Ack([1])))
        assert socket.poll(60_000)
        reply, _ = feed_schema.decode_ingest_message(socket.recv_multipart())
        assert reply.kind == "protocol_version"
        assert "99" in reply.message
        reply, _ = feed_schema.decode_ingest_message(socket.recv_multipart())
        assert reply.kind == "unknown_worker"
    assert server.metrics.dropped == ["garbage"] * 6 + ["version", "unknown_worker"]
    assert states(tmp_path) == {"queued": 2}
    with FeedClient(server.endpoint, "w") as client:
        take(client, 2)


def test_a_welcome_names_the_hello_that_it_answers(tmp_path, serve):
    fill(tmp_path)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(serve().endpoint)
        hello = feed_schema.Hello(
            version=feed_schema.PROTOCOL_VERSION, worker_id="w", hostname="h", credits=0, number=7
        )
        socket.send_multipart(feed_schema.encode(hello))
        assert socket.poll(60_000)
        welcome, _ = feed_schema.decode_ingest_message(socket.recv_multipart())
    assert isinstance(welcome, feed_schema.Welcome)
    assert welcome.hello == 7


def test_taken_endpoint_is_an_error(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with Ledger(tmp_path / "other.sqlite") as ledger, pytest.raises(TransportError, match=r"feed\.endpoint"):
        FeedServer(ledger, tmp_path, server.endpoint, 1.0)
