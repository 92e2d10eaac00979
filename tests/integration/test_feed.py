"""The feed over real sockets: what is lent, lost, sent again and folded."""

import contextlib
import threading
import time

import numpy as np
import pytest
import zmq

from streamrecon.errors import CheckpointIncompatible, IngestError, TransportError
from streamrecon.ingest.batcher import Batcher
from streamrecon.ingest.feed import FeedServer
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.metrics import NoIngestMetrics
from streamrecon.ingest.service import IngestService, IngestSettings
from streamrecon.io import read_sections, write_stack
from streamrecon.transport import feed_schema
from streamrecon.transport.feed_client import FeedClient, _read_stacks
from streamrecon.transport.table_wire import OpticsWire, ParticleRow, table_from_rows, table_to_wire
from tests.integration.ingest_helpers import PIXEL_SIZE, CountingMetrics, images, put_stack_and_star

FREE_PORT = "tcp://127.0.0.1:0"
OPTICS = OpticsWire("group1", 300.0, 2.7, 0.1, PIXEL_SIZE, 8)


def row(name, index):
    return ParticleRow(name, index, OPTICS, (15000.5, 14800.25, 30.5, None))


def fill(tmp_path, stacks=2, n=5, batch_size=5):
    """Make a ledger with a batch a stack, and the stacks themselves."""
    with Ledger(tmp_path / LEDGER_NAME, "test") as ledger:
        for s in range(stacks):
            write_stack(tmp_path / f"s{s}.mrcs", images(n, seed=s), PIXEL_SIZE)
            rows = [row(f"s{s}.mrcs", i) for i in range(n)]
            ledger.add_particles({r.identity: r for r in rows})
        Batcher(ledger, NoIngestMetrics(), batch_size, 0.0).make(0.0, flush=True)


class Server:
    """A feed server in a thread of its own, over the ledger in a folder."""

    def __init__(self, tmp_path, endpoint=FREE_PORT, lease_seconds=5.0, curve=None):
        self.metrics = CountingMetrics()
        self._stop = threading.Event()
        started = threading.Event()

        def run():
            with Ledger(tmp_path / LEDGER_NAME) as ledger:
                feed = FeedServer(ledger, tmp_path, endpoint, lease_seconds, self.metrics, curve=curve)
                self.endpoint, self.feed = feed.endpoint, feed
                started.set()
                while not self._stop.is_set():
                    feed.poll(0.02)
                feed.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert started.wait(5)

    def stop(self):
        self._stop.set()
        self._thread.join()


@pytest.fixture
def serve(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(**options):
            server = Server(tmp_path, **options)
            stack.callback(server.stop)
            return server

        yield start


def take(client, n, seconds=5.0):
    """Return n batches from a client."""
    taken = []
    end = time.monotonic() + seconds
    while len(taken) < n:
        assert time.monotonic() < end, f"{len(taken)} of {n} batches came"
        item = client.poll(0.1)
        if item is not None:
            taken.append(item)
    return taken


def states(tmp_path):
    with Ledger(tmp_path / LEDGER_NAME, access="read") as ledger:
        return ledger.counts().batches


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def crash(client):
    """End a client without a Bye, as kill -9 does."""
    client._link._welcome = None
    client._link._refused = True
    client.close()


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
    from streamrecon.errors import IngestError
    from streamrecon.transport import feed_client

    def unreadable(path, indices):
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
        assert {e.kind for e in ledger.quarantined()} == {"ingest_error"}
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
    server = serve(lease_seconds=0.5)
    first = FeedClient(server.endpoint, "w1")
    taken = take(first, 2)
    crash(first)
    with FeedClient(server.endpoint, "w2") as second:
        assert second.poll(0.1) is None
        again = take(second, 2)
    assert [(i, b.identities) for i, b in again] == [(i, b.identities) for i, b in taken]
    assert server.metrics.expired == 2


def test_long_fold_keeps_its_lease(tmp_path, serve):
    fill(tmp_path)
    server = serve(lease_seconds=0.4)
    with FeedClient(server.endpoint, "w") as client:
        take(client, 1)
        time.sleep(1.5)  # the fold
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
    server = serve()
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
        client.poll(5)
    assert states(tmp_path) == {"queued": 2}


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
            second.poll(5)


def test_second_worker_of_the_same_name_takes_over(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with FeedClient(server.endpoint, "w") as first:
        take(first, 2)
        with FeedClient(server.endpoint, "w") as second:
            assert [i for i, _ in take(second, 2)] == [1, 2]
            with pytest.raises(TransportError, match="another worker"):
                first.poll(5)


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
        assert socket.poll(5000)
        reply, _ = feed_schema.decode_ingest_message(socket.recv_multipart())
        assert reply.kind == "protocol_version"
        assert "99" in reply.message
        reply, _ = feed_schema.decode_ingest_message(socket.recv_multipart())
        assert reply.kind == "unknown_worker"
    assert server.metrics.dropped == ["garbage"] * 6 + ["version", "unknown_worker"]
    assert states(tmp_path) == {"queued": 2}
    with FeedClient(server.endpoint, "w") as client:
        take(client, 2)


def test_taken_endpoint_is_an_error(tmp_path, serve):
    fill(tmp_path)
    server = serve()
    with Ledger(tmp_path / "other.sqlite") as ledger, pytest.raises(TransportError, match=r"feed\.endpoint"):
        FeedServer(ledger, tmp_path, server.endpoint, 1.0)


@pytest.mark.parametrize("mode", ["events", "polling"])
def test_service_from_folder_to_drained(tmp_path, mode):
    root = tmp_path / "incoming"
    put_stack_and_star(root, "a.mrcs", seed=1)
    settings = IngestSettings(
        root,
        tmp_path / "out",
        watch_mode=mode,
        settle_seconds=0.1,
        scan_seconds=60.0 if mode == "events" else 0.1,
        endpoint=FREE_PORT,
        batch_size=4,
        batch_wait_seconds=0.2,
    )
    result = {}
    started = threading.Event()

    def run():
        service = IngestService(settings)
        result["endpoint"] = service.endpoint
        started.set()
        service.run(threading.Event(), until_idle=1.5)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(5)
    seen = []
    with FeedClient(result["endpoint"], "w") as client:
        late = False
        end = time.monotonic() + 20
        while not client.drained:
            assert time.monotonic() < end
            item = client.poll(0.05)
            if item is not None:
                seen += item[1].identities
                client.ack([item[0]])
            if len(seen) == 5 and not late:
                late = True
                put_stack_and_star(root, "deep/er/b.mrcs", seed=2)
    thread.join(10)
    assert not thread.is_alive()
    expected = [f"{i:06d}@{s}" for s in ("a.mrcs", "deep/er/b.mrcs") for i in range(1, 6)]
    assert sorted(seen) == sorted(expected)
    with Ledger(tmp_path / "out" / LEDGER_NAME, access="read") as ledger:
        assert ledger.counts().particles == {"ready": 0, "queued": 0, "folded": 10, "quarantined": 0}


class TestWhereAWorkerReads:
    """By reference only below its own root: a name from the ingester does not lead it elsewhere."""

    def test_below_its_root_by_reference_elsewhere_as_pixels(self, tmp_path, serve, monkeypatch):
        fill(tmp_path)
        server = serve()
        opened = []

        def reading(path, sections):
            opened.append(path)
            return read_sections(path, sections)

        monkeypatch.setattr("streamrecon.transport.feed_client.read_sections", reading)
        with FeedClient(server.endpoint, "w", root=tmp_path / "elsewhere", credits=1) as client:
            ((_, batch),) = take(client, 1)
            np.testing.assert_array_equal(batch.images, read_sections(tmp_path / "s0.mrcs", range(5)))
            assert opened == []
        with FeedClient(server.endpoint, "w2", root=tmp_path, credits=1) as client:
            take(client, 1)
            assert opened

    @pytest.mark.parametrize("name", ["{root}/../secret.mrcs", "/etc/passwd", "{root}x/s.mrcs", "s.mrcs"])
    def test_names_that_lead_out(self, tmp_path, monkeypatch, name):
        root = tmp_path / "root"
        monkeypatch.setattr("streamrecon.transport.feed_client._read_stacks", lambda *_: pytest.fail("it was opened"))
        table = table_from_rows([row(name.format(root=root), 0)])
        with FeedClient(FREE_PORT.replace(":0", ":9"), "w", root=root) as client:
            message = feed_schema.Batch(
                batch_id=1,
                session="s",
                table=table_to_wire(table),
                identities=["1"],
                by_reference=True,
                box_size=8,
                stack_bytes=[1],
            )
            with pytest.raises(IngestError, match="pixels are asked for instead"):
                client._read_by_reference(message, table)

    def test_nothing_is_allocated_for_a_batch_beyond_the_limit(self, monkeypatch):
        monkeypatch.setattr("streamrecon.transport.feed_client.MAX_PIXEL_BYTES", 4 * 8 * 8)
        monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("it was allocated"))
        table = table_from_rows([row("s.mrcs", 0), row("s.mrcs", 1)])
        message = feed_schema.Batch(
            batch_id=1, session="s", table=table_to_wire(table), identities=["1", "2"], by_reference=True, box_size=8
        )
        with pytest.raises(IngestError, match=r"at most 256 bytes of pixels, found 512"):
            _read_stacks(message, table)


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
            end = time.monotonic() + 30
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


class TestDrain:
    """A person ends the session: what the ledger holds is folded, what comes later waits for the next start."""

    @pytest.fixture
    def start(self, tmp_path):
        threads = []

        def start():
            settings = IngestSettings(
                tmp_path / "incoming",
                tmp_path / "out",
                watch_mode="polling",
                settle_seconds=0.05,
                scan_seconds=0.1,
                endpoint=FREE_PORT,
                batch_size=4,
                # a partial batch is not made until it is flushed
                batch_wait_seconds=3600.0,
            )
            ready = threading.Event()
            stop = threading.Event()
            service = {}

            def run():
                service["it"] = IngestService(settings)
                ready.set()
                service["it"].run(stop)

            thread = threading.Thread(target=run)
            thread.start()
            threads.append((thread, stop))
            assert ready.wait(5)
            return service["it"], thread

        yield start
        for thread, stop in threads:
            stop.set()
            thread.join()

    def particles(self, tmp_path):
        with Ledger(tmp_path / "out" / LEDGER_NAME, access="read") as ledger:
            return ledger.counts().particles

    def test_what_is_queued_is_folded_and_nothing_new_taken(self, tmp_path, start):
        put_stack_and_star(tmp_path / "incoming", "a.mrcs", seed=1)
        service, thread = start()
        seen = []
        with FeedClient(service.endpoint, "w") as client:
            (batch,) = take(client, 1)
            until(lambda: self.particles(tmp_path)["ready"] == 1)
            client.drain()
            until(lambda: self.particles(tmp_path)["ready"] == 0)  # the rest of a batch is flushed
            put_stack_and_star(tmp_path / "incoming", "b.mrcs", seed=2)
            for batch_id, content in (batch, *take(client, 1)):
                seen += content.identities
                client.ack([batch_id])
            end = time.monotonic() + 10
            while not client.drained:
                assert client.poll(0.05) is None
                assert time.monotonic() < end
        thread.join(10)
        assert not thread.is_alive()
        assert sorted(seen) == [f"{i:06d}@a.mrcs" for i in range(1, 6)]
        assert self.particles(tmp_path) == {"ready": 0, "queued": 0, "folded": 5, "quarantined": 0}
        start()
        until(lambda: sum(self.particles(tmp_path).values()) == 10)

    def test_it_is_asked_again_of_an_ingester_that_was_restarted(self, tmp_path, serve):
        fill(tmp_path)
        first = serve()
        with FeedClient(first.endpoint, "w") as client:
            take(client, 2)
            client.drain()
            until(lambda: first.feed.drain_asked)
            first.stop()
            again = serve(endpoint=first.endpoint)
            until(lambda: again.feed.drain_asked)
