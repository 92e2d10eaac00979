"""The service from the folder to the end of the stream, and a session that a person ends."""

import threading
import time

import pytest

from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.service import IngestService, IngestSettings
from streamrecon.transport.feed_client import FeedClient
from tests.integration.feed_helpers import FREE_PORT, fill, lasting_endpoint, take, until
from tests.integration.ingest_helpers import put_stack_and_star


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
    assert started.wait(60)
    seen = []
    with FeedClient(result["endpoint"], "w") as client:
        late = False
        end = time.monotonic() + 120
        while not client.drained:
            assert time.monotonic() < end
            item = client.poll(0.05)
            if item is not None:
                seen += item[1].identities
                if len(seen) == 5 and not late:
                    # before all is acknowledged: the stream might be over else
                    late = True
                    put_stack_and_star(root, "deep/er/b.mrcs", seed=2)
                client.ack([item[0]])
    thread.join(60)
    assert not thread.is_alive()
    expected = [f"{i:06d}@{s}" for s in ("a.mrcs", "deep/er/b.mrcs") for i in range(1, 6)]
    assert sorted(seen) == sorted(expected)
    with Ledger(tmp_path / "out" / LEDGER_NAME, access="read") as ledger:
        assert ledger.counts().particles == {"ready": 0, "queued": 0, "folded": 10, "quarantined": 0}


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
            assert ready.wait(60)
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
            end = time.monotonic() + 60
            while not client.drained:
                assert client.poll(0.05) is None
                assert time.monotonic() < end
        thread.join(60)
        assert not thread.is_alive()
        assert sorted(seen) == [f"{i:06d}@a.mrcs" for i in range(1, 6)]
        assert self.particles(tmp_path) == {"ready": 0, "queued": 0, "folded": 5, "quarantined": 0}
        start()
        until(lambda: sum(self.particles(tmp_path).values()) == 10)

    def test_it_is_asked_again_of_an_ingester_that_was_restarted(self, tmp_path, serve):
        fill(tmp_path)
        first = serve(endpoint=lasting_endpoint())
        with FeedClient(first.endpoint, "w") as client:
            take(client, 2)
            client.drain()
            until(lambda: first.feed.drain_asked)
            first.stop()
            again = serve(endpoint=first.endpoint)
            until(lambda: again.feed.drain_asked)
