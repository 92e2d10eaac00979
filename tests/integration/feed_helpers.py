"""A feed server over a ledger in a folder, for tests that talk to it over real sockets."""

import threading
import time

from streamrecon.ingest.batcher import Batcher
from streamrecon.ingest.feed import FeedServer
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.metrics import NoIngestMetrics
from streamrecon.io import write_stack
from streamrecon.monitor.ports import unused_ports
from streamrecon.transport.table_wire import OpticsWire, ParticleRow
from tests.integration.ingest_helpers import PIXEL_SIZE, CountingMetrics, images
from tests.ledgers import add_particles

FREE_PORT = "tcp://127.0.0.1:0"
OPTICS = OpticsWire("group1", 300.0, 2.7, 0.1, PIXEL_SIZE, 8)


def lasting_endpoint():
    """Return an endpoint for a server that is started again: while it is away the port is not given to anybody."""
    return f"tcp://127.0.0.1:{unused_ports(1)[0]}"


def row(name, index):
    return ParticleRow(name, index, OPTICS, (15000.5, 14800.25, 30.5, None))


def fill(tmp_path, stacks=2, n=5, batch_size=5):
    """Make a ledger with a batch a stack, and the stacks themselves."""
    with Ledger(tmp_path / LEDGER_NAME, "test") as ledger:
        for s in range(stacks):
            write_stack(tmp_path / f"s{s}.mrcs", images(n, seed=s), PIXEL_SIZE)
            rows = [row(f"s{s}.mrcs", i) for i in range(n)]
            add_particles(ledger, {r.identity: r for r in rows})
        Batcher(ledger, NoIngestMetrics(), batch_size, 0.0).make(0.0, flush=True)


class Server:
    """A feed server in a thread of its own, over the ledger in a folder."""

    def __init__(self, tmp_path, endpoint=FREE_PORT, lease_seconds=60.0, curve=None, clock=time.monotonic):
        self.metrics = CountingMetrics()
        self.rounds = 0
        self._stop = threading.Event()
        started = threading.Event()

        def run():
            with Ledger(tmp_path / LEDGER_NAME) as ledger:
                feed = FeedServer(ledger, tmp_path, endpoint, lease_seconds, self.metrics, clock, curve)
                self.endpoint, self.feed = feed.endpoint, feed
                started.set()
                while not self._stop.is_set():
                    feed.poll(0.02)
                    self.rounds += 1
                feed.close()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert started.wait(60)

    def stop(self):
        self._stop.set()
        self._thread.join()


def take(client, n, seconds=60.0):
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


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def crash(client):
    """End a client without a Bye, as kill -9 does: from now on nothing of it leaves, whatever its thread is about."""
    client._link._send = lambda message: True
    client.close()
