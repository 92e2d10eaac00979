"""The daemon over its life: stopped, killed, resumed, watched and followed; every particle exactly once."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from shutil import which

import mrcfile
import numpy as np
import pytest

from streamrecon.io import read_star
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.record import WorkerRecord
from tests.e2e.daemon import Session, assert_each_once, child, ended, figure, samples, started, streamrecon, wait_for

pytestmark = pytest.mark.slow
CHECKPOINT_OFTEN = "\n[checkpoint]\nevery_seconds = 0.5\n"
SMALL = ("--box", 32, "--pixel-size", 6.4, "--snr", 0.2, "--micrographs-of", 25)


def seen(session, at_least):
    return lambda: (figure(session, "streamrecon_worker_particles_seen") or 0) >= at_least


def joined_manifest(session):
    return session.incoming / "Extract" / "job007" / "particles.star"


def n_joined(session):
    """Return how many particles the joined manifest names: none before the microscope joins for the first time."""
    manifest = joined_manifest(session)
    return len(read_star(manifest)) if manifest.exists() else 0


@contextlib.contextmanager
def endless_microscope(session, daemon):
    """A microscope that writes until it is told to stop: whatever a test does then is in the middle of a stream.

    It begins once the worker is there: how many particles there are in the end is not up to how long that took.
    """
    wait_for(lambda: figure(session, "streamrecon_control_paused") == 0, daemon)
    endless = ("--particles", 10**6, "--rate", 100)
    where = (session.incoming, "--truth", session.folder / "truth")
    with started("simulate", *where, *SMALL, *endless, log=session.folder / "microscope.log") as source:
        yield source


def stop_microscope(source):
    """End it; what it leaves are whole files."""
    source.send_signal(signal.SIGINT)
    assert ended(source) == 130


# SIGTERM: most of the tests below
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_and_a_second_run_goes_on(tmp_path, number):
    session = Session(tmp_path)
    with session.run() as daemon, endless_microscope(session, daemon) as source:
        wait_for(seen(session, 200), daemon)
        daemon.send_signal(number)
        assert ended(daemon) == 0
        stopped_at = len(session.poses())
        loaded = CheckpointStore(session.output / "checkpoints", 3).load_latest()
        assert loaded is not None
        record = WorkerRecord.from_checkpoint(loaded.extra)
        assert record.pose_spool_bytes == (session.output / "poses.rows").stat().st_size
        assert (session.output / "poses.rows").read_bytes().count(b"\n") == stopped_at >= 200
        wait_for(lambda: n_joined(session) > stopped_at, source)
        stop_microscope(source)
    log = session.finish()
    assert "resumed" in log
    assert_each_once(session, joined_manifest(session))
    assert len(session.poses()) > stopped_at


@pytest.mark.parametrize("victim", ["worker", "ingest"])
def test_kill_9_in_the_middle_costs_nothing(tmp_path, victim):
    session = Session(tmp_path, more=CHECKPOINT_OFTEN)
    with session.run() as daemon, endless_microscope(session, daemon) as source:
        wait_for(seen(session, 200), daemon)
        first = wait_for(lambda: child(daemon, victim), daemon)
        first.kill()
        wait_for(lambda: (found := child(daemon, victim)) and found.pid != first.pid, daemon)
        stop_microscope(source)
        # not --until-idle: a microscope that stands still for that long on a busy machine would end it too early
        wait_for(seen(session, len(read_star(joined_manifest(session)))), daemon)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    assert_each_once(session, joined_manifest(session))


# The worker on a host that has none of the files: opening one fails, and it may say that it is another host.
BLIND_WORKER = """
import os, socket, sys
hidden, hostname, *arguments = sys.argv[1:]
if hostname:
    socket.gethostname = lambda: hostname

def hide(event, values):
    if event == "open" and isinstance(values[0], (str, os.PathLike)) and os.fspath(values[0]).startswith(hidden):
        print("refused", values[0], file=sys.stderr, flush=True)
        raise FileNotFoundError(2, "hidden", values[0])

sys.addaudithook(hide)
from streamrecon.cli.main import app
sys.argv = ["streamrecon", *arguments]
app()
"""


@pytest.mark.parametrize("hostname", ["elsewhere", ""])
def test_a_worker_that_does_not_see_the_files_gets_pixels(tmp_path, hostname):
    """At once if it says another host's name, after a first refusal if it should have seen them."""
    session = Session(tmp_path / "here")
    session.simulate(*SMALL, "--particles", 400)
    there = Session(tmp_path / "there")
    # by reference it opens only what lies below its own root
    root = there.folder / "nowhere" if hostname else session.incoming
    text = session.config.read_text().replace('"incoming"', f'"{root}"')
    there.config.write_text(text)
    with started("ingest", "-c", session.config, "--until-idle", "2", log=session.log) as ingest:
        worker = subprocess.run(
            [sys.executable, "-c", BLIND_WORKER, str(session.incoming), hostname, "worker", "-c", str(there.config)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert worker.returncode == 0, worker.stderr
        assert ended(ingest) == 0
    assert ("refused" in worker.stderr) == (not hostname)
    assert ("feed_sends_pixels" in session.logged()) == (not hostname)
    assert_each_once(there, joined_manifest(session))
    assert len(there.poses()) == 400
    assert (there.output / "snapshots" / "volume.mrc").exists()
    assert not (session.output / "snapshots").exists()


CORE = {
    "files by state": ("streamrecon_ingest_files", ("state", "ready"), ("type", "stack")),
    "quarantine by kind": ("streamrecon_ingest_quarantined_total", ("kind", "manifest_mismatch")),
    "lag": ("streamrecon_ingest_lag_seconds",),
    "particles folded, ledger": ("streamrecon_ingest_particles", ("state", "folded")),
    "queue": ("streamrecon_ingest_queue_batches",),
    "particles": ("streamrecon_worker_particles_seen",),
    "ESS": ("streamrecon_worker_effective_sample_size",),
    "resolution": ("streamrecon_worker_resolution_angstrom",),
    "step time": ("streamrecon_worker_step_seconds_count",),
    "checkpoint age": ("streamrecon_worker_checkpoint_age_seconds",),
    "errors by kind": ("streamrecon_worker_errors_total", ("kind", "stack_corrupt")),
    "ingest up": ("streamrecon_supervisor_process_up", ("process", "ingest")),
    "worker up": ("streamrecon_supervisor_process_up", ("process", "worker")),
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A session of 600 particles: its metrics page while it runs, and the folder of a subscriber."""
    folder = tmp_path_factory.mktemp("watched")
    session = Session(folder)
    session.simulate(*SMALL, "--particles", 600)
    with session.run() as daemon:
        wait_for(seen(session, 600), daemon)
        wait_for(lambda: figure(session, "streamrecon_worker_checkpoints_total"), daemon)
        # of both processes: one that has no time to answer just now is left out
        both = (CORE["particles"], CORE["queue"])
        page = wait_for(lambda: (p := session.metrics()) and all(key in samples(p) for key in both) and p, daemon)
        only_maps = ("--topic", "volume/full/", "--topic", "volume/half_", "--count", 3)
        followed = streamrecon("subscribe", "-c", session.config, *only_maps, "--save", folder / "maps")
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    return session, page, followed


def test_the_metrics_page_has_the_core_set(watched):
    _, page, _ = watched
    found = samples(page)
    missing = [name for name, key in CORE.items() if key not in found]
    assert missing == []
    assert found[CORE["particles"]] == 600
    assert found[CORE["step time"]] >= 6
    assert found[CORE["ESS"]] >= 1
    assert 6.4 < found[CORE["resolution"]] < 32 * 6.4
    assert found[CORE["errors by kind"]] == 0
    assert found[CORE["ingest up"]] == found[CORE["worker up"]] == 1


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not on PATH (Debian: prometheus)")
def test_promtool_accepts_the_page(watched):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=watched[1], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_subscriber_keeps_maps_that_other_programs_open(watched):
    session, _, followed = watched
    assert followed.returncode == 0, followed.stdout + followed.stderr
    saved = sorted((session.folder / "maps").iterdir())
    assert [p.name for p in saved] == ["volume_full.mrc", "volume_half_a.mrc", "volume_half_b.mrc"]
    for path in saved:
        assert mrcfile.validate(path)
        with mrcfile.open(path) as file:
            assert file.data.shape == (32, 32, 32)
            assert file.data.dtype == np.float32
            assert file.voxel_size.x == pytest.approx(6.4)
            assert file.data.std() > 0


def test_mixed_pixel_sizes_are_refused_with_both_names(tmp_path):
    session = Session(tmp_path)
    session.simulate(*SMALL, "--particles", 200, "--micrographs-of", 100)
    other = Session(tmp_path / "other")
    other.simulate(*SMALL, "--pixel-size", 5.6, "--particles", 100, "--micrographs-of", 100, "--seed", 5)
    micrographs = "Extract/job007/Micrographs"
    with session.run() as daemon:
        wait_for(seen(session, 200), daemon)
        for name in ("mic_00001.mrcs", "mic_00001_extract.star"):
            text = other.incoming / micrographs / name
            target = session.incoming / "Extract" / "job008" / name
            target.parent.mkdir(exist_ok=True)
            if name.endswith(".star"):
                part = session.folder / name  # half of it would be refused for another reason
                part.write_text(text.read_text().replace("job007/Micrographs", "job008"))
                part.rename(target)
            else:
                shutil.copyfile(text, target)
        wait_for(lambda: "file_quarantined" in session.logged(), daemon)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    assert len(session.poses()) == 200
    assert_each_once(session, joined_manifest(session))
    refusal = next(line for line in session.logged().splitlines() if "file_quarantined" in line)
    assert "Extract/job008/mic_00001.mrcs: expected 6.4 angstrom" in refusal
    assert "as in " in refusal
    assert "Extract/job007/Micrographs/mic_0000" in refusal
    assert "found 5.6" in refusal


REVISITING = """
[engine]
starts = 1
settle_images = 300
update_images = 100
images_per_shell = 100

[refinement]
max_sweeps = 50
"""


def test_a_quiet_session_visits_its_particles_again_through_a_kill(tmp_path):
    """While nothing new comes the visits grow; a kill costs none of the particles, new ones are taken at once."""
    session = Session(tmp_path, more=CHECKPOINT_OFTEN + REVISITING)
    easy = ("--box", 32, "--pixel-size", 6.4, "--snr", 1.0, "--micrographs-of", 100)
    session.simulate(*easy, "--particles", 800)

    def visits(at_least):
        return lambda: (figure(session, "streamrecon_worker_image_revisits_total") or 0) >= at_least

    with session.run() as daemon:
        wait_for(seen(session, 800), daemon)
        wait_for(visits(200), daemon)
        first = wait_for(lambda: child(daemon, "worker"), daemon)
        first.kill()
        wait_for(lambda: (found := child(daemon, "worker")) and found.pid != first.pid and found, daemon)
        wait_for(visits(300), daemon)
        for name, value in (("particles_seen", 800), ("store_particles", 800), ("store_lost_particles", 0)):
            wait_for(lambda n=name, v=value: figure(session, f"streamrecon_worker_{n}") == v, daemon)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon) == 0
    assert_each_once(session, joined_manifest(session))
    status = json.loads((session.output / "snapshots" / "status.json").read_text())
    assert status["image_visits"] >= 1000
    assert status["stage_reason"]
    assert "the reconstruction is settled: annealing over" in session.logged()
