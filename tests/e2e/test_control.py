"""ctl against the daemon as a user runs it: paused, looked at, changed, drained, stopped; every particle once."""

import json
import shutil

import pytest

from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.transport.keys import client_folder, make_server
from tests.e2e.daemon import Session, assert_each_once, ended, figure, streamrecon, wait_for
from tests.e2e.test_daemon import SMALL, joined_manifest, seen

pytestmark = pytest.mark.slow
QUEUED = ("streamrecon_ingest_particles", ("state", "queued"))
RARELY = """
[snapshot]
every_images = 1000000
every_seconds = 1000000

[checkpoint]
every_seconds = 1000000
"""


def ctl(session, *arguments, code=0):
    done = streamrecon("ctl", "-c", session.config, *arguments, "--json", "--timeout", 200)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else None


def test_a_session_under_command(tmp_path):
    session = Session(tmp_path, more=RARELY)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, seed in ((first, 1), (second, 2)):
        done = streamrecon(
            "simulate", folder, "--truth", tmp_path / f"truth{seed}", *SMALL, "--particles", 300, "--seed", seed
        )
        assert done.returncode == 0, done.stderr
    snapshots = session.output / "snapshots"
    with session.run() as daemon:
        wait_for(lambda: figure(session, "streamrecon_control_paused") == 0, daemon)
        assert ctl(session, "pause")["outcome"] == "done"
        shutil.copytree(first, session.incoming, dirs_exist_ok=True)
        wait_for(lambda: figure(session, *QUEUED) == 300, daemon)
        wait_for(lambda: figure(session, "streamrecon_control_paused") == 1, daemon)
        status = ctl(session, "status")["fields"]
        assert (status["state"], status["particles_seen"]) == ("paused", 0)
        assert ctl(session, "snapshot", code=2)["outcome"] == "refused"

        assert ctl(session, "resume")["outcome"] == "done"
        wait_for(seen(session, 300), daemon)
        durable = ctl(session, "checkpoint")["fields"]["number"]
        store = CheckpointStore(session.output / "checkpoints", 3)
        assert store.load_latest().number >= durable
        assert ctl(session, "snapshot")["fields"] == {"particles": 300}
        assert json.loads((snapshots / "status.json").read_text())["particles_seen"] == 300
        assert ctl(session, "set", "snapshot.every_seconds", "0.5")["fields"]["value"] == 0.5
        assert ctl(session, "set", "engine.samples", "64", code=2)["outcome"] == "refused"

        assert ctl(session, "drain")["outcome"] == "accepted"
        # obeyed once ingest has heard of it: until then what is there is taken
        wait_for(lambda: '"drain_asked"' in session.logged(), daemon)
        shutil.copytree(second, session.incoming / "late")
        assert ended(daemon) == 0, session.logged()[-3000:]
    assert_each_once(session, joined_manifest(session))
    assert "drain by somebody on this host" in session.logged()


def test_stop_ends_it_and_the_next_start_goes_on(tmp_path):
    make_server(tmp_path / "keys")
    session = Session(tmp_path, more='\n[security]\ncurve_dir = "keys"\n')
    session.simulate(*SMALL, "--particles", 500)
    with session.run() as daemon:
        wait_for(seen(session, 100), daemon)
        # the worker's key, and that of subscribers, command nothing
        for name in ("worker", "local"):
            ctl(session, "stop", "--curve", client_folder(tmp_path / "keys", name), code=4)
        refused = ("streamrecon_control_peers_refused_total", ("reason", "unknown_key"))
        wait_for(lambda: (figure(session, *refused) or 0) >= 2, daemon)
        assert ctl(session, "stop")["outcome"] == "accepted"
        assert ended(daemon) == 0, session.logged()[-3000:]
    stopped_at = len(session.poses())
    assert stopped_at >= 100
    session.finish()
    assert_each_once(session, joined_manifest(session))
    assert "stop by operator" in session.logged()
