"""kill -9 of the ingest process, again and again: every particle reaches the worker exactly once."""

import signal
import subprocess
import sys
import time

from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.monitor.ports import unused_ports
from streamrecon.transport.feed_client import FeedClient
from tests.integration.feed_helpers import states, until
from tests.integration.ingest_helpers import put_stack_and_star

SCRIPT = """
import sys, threading
from pathlib import Path
from streamrecon.ingest.service import IngestService, IngestSettings

service = IngestService(IngestSettings(
    Path(sys.argv[1]), Path(sys.argv[2]), settle_seconds=0.05, scan_seconds=0.2, endpoint=sys.argv[3],
    batch_size=7, batch_wait_seconds=0.2, lease_seconds=5.0,
))
print("started", flush=True)
service.run(threading.Event())
"""
STACKS, IMAGES = 30, 5


def start(root, out, endpoint):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root), str(out), endpoint], stdout=subprocess.PIPE, text=True
    )
    # Log lines may stand before it: structlog writes to standard output too.
    while "started" not in (line := process.stdout.readline()):
        assert line, "the process ended before it had started"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_ingest_killed_again_and_again(tmp_path):
    root, out, endpoint = tmp_path / "incoming", tmp_path / "out", f"tcp://127.0.0.1:{unused_ports(1)[0]}"
    root.mkdir()
    process = start(root, out, endpoint)
    kills = 0
    seen: dict[str, int] = {}
    content: dict[int, tuple[str, ...]] = {}
    written = 0
    client = FeedClient(endpoint, "w", credits=3)
    folded: list[int] = []
    try:
        end = time.monotonic() + 200
        while len(seen) < STACKS * IMAGES:
            assert time.monotonic() < end, f"{len(seen)} particles, {kills} kills"
            if written < STACKS:
                put_stack_and_star(root, f"s{written:02d}.mrcs", IMAGES, seed=written)
                written += 1
            item = client.poll(0.05)
            if item is not None:
                batch_id, batch = item
                assert batch_id not in content
                content[batch_id] = batch.identities
                for identity in batch.identities:
                    seen[identity] = seen.get(identity, 0) + 1
                folded.append(batch_id)
                if batch_id % 3 == 0:
                    client.ack(folded)
                    if kills < 5:
                        # At once: the Ack may or may not have arrived.
                        kill(process)
                        kills += 1
                        process = start(root, out, endpoint)
        client.ack(folded)
        until(lambda: states(out) == {"folded": len(content)})
        client.close()
        kill(process)
    finally:
        client.close()
        if process.poll() is None:
            kill(process)
    assert kills == 5
    assert set(seen.values()) == {1}
    expected = {f"{i:06d}@s{s:02d}.mrcs" for s in range(STACKS) for i in range(1, IMAGES + 1)}
    assert set(seen) == expected
    with Ledger(out / LEDGER_NAME) as ledger:
        assert ledger.counts().particles == {"ready": 0, "queued": 0, "folded": 150, "quarantined": 0}
