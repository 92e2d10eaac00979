"""The unit file: what systemd itself says of it, and that it agrees with the code."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamrecon.cli import exit_codes
from streamrecon.monitor.supervisor import RestartPolicy, StopPolicy

UNIT = Path(__file__).parents[3] / "deploy" / "systemd" / "streamrecon@.service"
PROGRAM = "/opt/streamrecon/.venv/bin/streamrecon"
# 0 (nothing can be reached) to 10; what is left is the network, which it is for, and memory that holds compiled kernels
MOST_EXPOSURE = 15  # of 100

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt-get install systemd"
)


def settings():
    pairs = [line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] not in "#;["]
    return {key: value for key, value in pairs if key != "SystemCallFilter"}


@pytest.fixture
def unit(tmp_path):
    """The unit with a program that is there: verify looks for it."""
    text = UNIT.read_text()
    assert f"ExecStart={PROGRAM} run -c" in text
    path = tmp_path / "streamrecon@grid7.service"
    path.write_text(text.replace(PROGRAM, f"{sys.executable} -m streamrecon"))
    return path


@needs_systemd
def test_systemd_finds_nothing_wrong(unit):
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    ours = [line for line in ended.stderr.splitlines() if unit.name in line]
    assert ours == []


@needs_systemd
def test_systemd_finds_little_exposed(unit):
    ended = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_what_cannot_be_mended_by_a_restart_is_not_restarted():
    assert {int(code) for code in settings()["RestartPreventExitStatus"].split()} == exit_codes.PERMANENT


def test_systemd_is_more_patient_than_the_supervisor():
    assert float(settings()["TimeoutStopSec"]) > StopPolicy().grace_seconds
    assert float(settings()["StartLimitIntervalSec"]) > float(settings()["RestartSec"]) * RestartPolicy().give_up_after
    assert settings()["Type"] == "notify"
