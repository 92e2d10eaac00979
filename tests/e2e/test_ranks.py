"""A session on several devices, here CPU processes: the daemon, the ranks it starts, and what happens if one ends."""

import signal

import psutil
import pytest

from tests.e2e.daemon import Session, assert_each_once, child, ended, figure, wait_for
from tests.e2e.test_daemon import joined_manifest, seen

pytestmark = pytest.mark.slow
ON_TWO = """
[checkpoint]
every_seconds = 0.5

[compute]
backend = "cpu"
devices = [0, 1]

[engine]
starts = 1
settle_images = 150
update_images = 100
images_per_shell = 100
search_shells = 8
in_plane_angles = 24
direction_order = 2
samples = 16
"""
FOLLOWER = "streamrecon.worker.ranks.follower"


def other_worker(daemon, first):
    """Return the worker's process once it is another."""

    def found():
        worker = child(daemon, "worker")
        return worker if worker is not None and worker.pid != first.pid else None

    return wait_for(found, daemon)


def test_a_rank_that_is_killed_costs_nothing(tmp_path):
    """Through a start of the worker with another rank, and visits to what was kept: every particle counts once."""
    session = Session(tmp_path)
    text = session.config.read_text().replace("[monitor]\n", "[monitor]\npage = false\n")
    session.config.write_text(text + ON_TWO)
    session.simulate("--box", 32, "--pixel-size", 6.4, "--snr", 4.0, "--micrographs-of", 25, "--particles", 800)
    with session.run() as daemon:
        wait_for(seen(session, 100), daemon)
        worker = wait_for(lambda: child(daemon, "worker"), daemon)
        killed = wait_for(lambda: child(worker, FOLLOWER), daemon)
        killed.kill()
        again = other_worker(daemon, worker)
        wait_for(seen(session, 800), daemon)
        wait_for(lambda: (figure(session, "streamrecon_worker_image_revisits_total") or 0) >= 150, daemon)
        wait_for(lambda: figure(session, "streamrecon_worker_particles_seen") == 800, daemon)
        wait_for(lambda: figure(session, "streamrecon_worker_store_lost_particles") == 0, daemon)
        last = wait_for(lambda: child(again, FOLLOWER), daemon)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    _, alive = psutil.wait_procs([last], timeout=60)
    assert not alive
    assert_each_once(session, joined_manifest(session))
    assert len(session.poses()) == 800
    log = session.logged()
    assert f"rank 1 (device 1, process {killed.pid}, killed by SIGKILL) is gone" in log
    assert log.count('"by": "host memory"') == 2
