"""``streamrecon subscribe`` against a real publisher, as a program of its own where signals matter."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from streamrecon.cli.main import app
from streamrecon.io import read_volume
from streamrecon.reconstruct.results import EngineStatus, Snapshot
from streamrecon.transport.publisher import Publisher

FREE_PORT = "tcp://127.0.0.1:0"


@pytest.fixture
def publisher():
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, session_name="my [b]session", heartbeat_seconds=0.2) as made:
        status = EngineStatus("settled", 500, 500, 5, 9, 1.0, 2.0, 0.5, 17.25, "common", 0.5, 200.0, 96.0, 1.0)
        made.publish_status(status)
        volume = np.arange(4**3, dtype=np.float32).reshape(4, 4, 4)
        made.publish_snapshot(
            Snapshot(volume, volume, volume, np.ones(3, np.float32), 2.5, float("inf"), 0.143, status)
        )
        yield made


def arguments(publisher, *more):
    ends = ["--events", publisher.events, "--volumes", publisher.volumes, "--snapshots", publisher.snapshots]
    return ["subscribe", *ends, "--timeout", "60", *more]


def test_lines_and_maps(publisher, tmp_path):
    outcome = CliRunner().invoke(app, arguments(publisher, "--count", "7", "--save", str(tmp_path / "maps")))
    assert outcome.exit_code == 0, outcome.output
    assert "settled, 500 particles, 17.2 Å, 200 images/s" in outcome.output
    assert "4x4x4 at 2.5 Å, 500 particles, no resolution yet" in outcome.output
    assert "my [b]session start" in outcome.output
    names = ["volume_full.mrc", "volume_half_a.mrc", "volume_half_b.mrc"]
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == names
    volume, voxel = read_volume(tmp_path / "maps" / "volume_full.mrc")
    np.testing.assert_array_equal(volume, np.arange(64).reshape(4, 4, 4))
    assert voxel == pytest.approx(2.5)


def test_topics_choose(publisher):
    outcome = CliRunner().invoke(app, arguments(publisher, "--count", "1", "--topic", "fsc/"))
    assert outcome.exit_code == 0
    assert "3 shells" in outcome.output
    assert "volume/" not in outcome.output


def test_an_unknown_topic_and_a_silent_publisher_are_told():
    outcome = CliRunner().invoke(app, ["subscribe", "--topic", "nonsense"])
    assert outcome.exit_code == 4
    ends = [f for name in ("events", "volumes", "snapshots") for f in (f"--{name}", "tcp://127.0.0.1:1")]
    outcome = CliRunner().invoke(app, ["subscribe", *ends, "--timeout", "0.3"])
    assert outcome.exit_code == 4
    assert "nothing heard" in outcome.output


def test_ctrl_c_ends_it_without_a_traceback(publisher):
    command = [sys.executable, "-m", "streamrecon", *arguments(publisher)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}
    ) as process:
        assert "session" in process.stdout.readline() + process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in complaints
