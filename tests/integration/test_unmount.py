"""The watched folder is away while batches wait: nothing is sent or set aside, and all goes on when it is back."""

import contextlib
import subprocess
import threading

import numpy as np
import pytest

from streamrecon.ingest import copies
from streamrecon.ingest.fingerprint import digests_at
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.ledger_contents import STACK_MISSING
from streamrecon.ingest.scan import Scan
from streamrecon.ingest.service import IngestService, IngestSettings
from streamrecon.transport.feed_client import FeedClient
from tests.integration.copy_helpers import put
from tests.integration.feed_helpers import FREE_PORT, states, take, until
from tests.integration.ingest_helpers import CountingMetrics, images, put_stack_and_star
from tests.integration.test_facility import commits_of

STACKS, N = 6, 5


@pytest.fixture
def start(root, tmp_path, monkeypatch):
    """Start an ingester over the folder, in a thread."""
    monkeypatch.setattr("streamrecon.ingest.root._LOOK_SECONDS", 0.1)
    monkeypatch.setattr("streamrecon.ingest.service._METRICS_SECONDS", 0.1)
    threads = []

    def start():
        settings = IngestSettings(
            root,
            tmp_path / "out",
            watch_mode="polling",
            settle_seconds=0.05,
            scan_seconds=0.2,
            endpoint=FREE_PORT,
            batch_size=N,
            batch_wait_seconds=0.1,
        )
        ready, stop = threading.Event(), threading.Event()
        made = {}

        def run():
            made["metrics"] = CountingMetrics()
            made["service"] = IngestService(settings, made["metrics"])
            ready.set()
            made["service"].run(stop)

        thread = threading.Thread(target=run)
        thread.start()
        threads.append((thread, stop))
        assert ready.wait(60)
        return made["service"], made["metrics"]

    yield start
    for thread, stop in threads:
        stop.set()
        thread.join()


def counts(tmp_path):
    with Ledger(tmp_path / "out" / LEDGER_NAME, access="read") as ledger:
        return ledger.counts().particles


@contextlib.contextmanager
def mounted(root):
    """Mount a disk on the watched folder and leave a file under it; give what takes it away and what brings it back."""
    (root / "left under the mount point.txt").touch()
    kept = root.with_name("kept")
    kept.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a disk cannot be mounted: {error.stderr.decode()}")
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "-l", root], check=True)
        subprocess.run(["mount", "--bind", root, kept], check=True)
        stack.callback(subprocess.run, ["umount", "-l", kept], check=True)
        yield (
            lambda: subprocess.run(["umount", "-l", root], check=True),
            lambda: subprocess.run(["mount", "--bind", kept, root], check=True),
        )


@contextlib.contextmanager
def moved(root, mount_point):
    """Give what takes the folder away, with or without an empty one in its place, and what brings it back."""
    away = root.with_name("unmounted")

    def leave():
        root.rename(away)
        if mount_point:
            root.mkdir()

    def return_():
        if mount_point:
            root.rmdir()
        away.rename(root)

    yield leave, return_


LEFT = {
    "nothing": lambda root: moved(root, mount_point=False),
    "empty mount point": lambda root: moved(root, mount_point=True),
    "another device": mounted,
}


@pytest.mark.parametrize("hostname", [None, "another-host"], ids=["by_reference", "pixels"])
@pytest.mark.parametrize("left", LEFT)
def test_a_backlog_waits_until_the_folder_is_back(root, tmp_path, start, hostname, left):
    with LEFT[left](root) as (leave, return_):
        for s in range(STACKS):
            put_stack_and_star(root, f"s{s}.mrcs", N, seed=s)
        service, metrics = start()
        until(lambda: states(tmp_path / "out") == {"queued": STACKS})
        with FeedClient(service.endpoint, "w", hostname=hostname, credits=2) as client:
            taken = take(client, 1)
            client.ack([taken[0][0]])
            leave()
            until(lambda: metrics.root_is_present is False)

            def nothing_more():
                # pixels may have been on their way; what goes by reference cannot be read
                item = client.poll(0.1)
                if item is not None:
                    taken.append(item)
                    client.ack([item[0]])
                return item is None and client.paused

            until(nothing_more)
            for _ in range(5):
                assert nothing_more()
            assert len(taken) <= 3
            left_over = counts(tmp_path)
            assert left_over["quarantined"] == left_over["ready"] == 0
            assert "withdrawn" not in states(tmp_path / "out")
            assert metrics.kinds == []
            return_()
            rest = take(client, STACKS - len(taken))
            taken += rest
            client.ack([batch_id for batch_id, _ in rest])
            until(lambda: counts(tmp_path)["folded"] == STACKS * N)
        assert metrics.kinds == []
        until(lambda: metrics.root_is_present)
        assert states(tmp_path / "out") == {"folded": STACKS}
    found = {
        identity: image for _, batch in taken for identity, image in zip(batch.identities, batch.images, strict=True)
    }
    expected = {f"{i + 1:06d}@s{s}.mrcs": image for s in range(STACKS) for i, image in enumerate(images(N, seed=s))}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[identity], expected[identity]) for identity in expected)
    assert sum(len(batch.identities) for _, batch in taken) == STACKS * N


def test_what_was_set_aside_comes_back_a_part_at_a_time(root, bench, monkeypatch):
    """A whole session may have to; ingest must come round meanwhile, and keep what it has done so far."""
    monkeypatch.setattr(copies, "_MOST_RELEASED", N)
    names = [put_stack_and_star(root, f"s{s}.mrcs", N, seed=s)[0].name for s in range(STACKS)]
    bench.look()
    bench.batcher.make(bench.now, flush=True)
    batch = bench.ledger.batches.lease_next("w")
    bad = {f"{i + 1:06d}@{name}": (STACK_MISSING, "gone") for name in names for i in range(N)}
    bench.ledger.batches.withdraw(batch.batch_id, bad)
    reads = []
    monkeypatch.setattr(copies, "digests_at", lambda path, sections: reads.append(path) or digests_at(path, sections))
    bench.collector.take_scan(Scan(bench.wanted), bench.now)
    assert bench.ledger.counts().particles["quarantined"] == STACKS * N, "all in one round, before any budget"
    left = []
    commits = commits_of(bench.ledger)
    for _ in range(STACKS):
        # no time at all: a part is done all the same
        assert bench.collector.step(bench.now, budget_seconds=0.0)
        left.append(bench.ledger.counts().particles["quarantined"])
    assert left == [N * k for k in reversed(range(STACKS))]
    assert len(commits) <= 4 * STACKS
    assert reads == [], "files that have not changed are not read to know that they are there"
    bench.look()
    assert bench.ready() == STACKS * N
    assert bench.ledger.quarantined() == []


def test_to_come_back_a_file_that_has_changed_must_hold_the_image(root, bench):
    stack, _ = put_stack_and_star(root, "s.mrcs", N, seed=1)
    bench.look()
    bench.batcher.make(bench.now, flush=True)
    batch = bench.ledger.batches.lease_next("w")
    bad = {f"{i + 1:06d}@s.mrcs": (STACK_MISSING, "gone") for i in range(N)}
    bench.ledger.batches.withdraw(batch.batch_id, bad)
    pixels = images(N, seed=1)
    pixels[2] = images(1, seed=9)[0]
    put(stack, pixels)
    bench.collector._copies.seek_missing()
    found = bench.collector._copies._found(bench.ledger.contents.missing())
    assert len(found) == N - 1
