"""NVIDIA's compute-sanitizer over every kernel on a real device: quiet, and not quiet with a bug planted."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.gpu.sanitizers import ROOT

FOUND = 66

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed"),
]


def watched(tool, *bug):
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND)]
    command += [sys.executable, "-m", "tests.gpu.sanitized_device", *bug]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_the_clean_kernels_pass(real_device, tool):
    done = watched(tool)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "all results agree" in done.stdout


@pytest.mark.parametrize(
    ("tool", "bug", "kernel"),
    [("memcheck", "beyond", "rfft_to_cube"), ("racecheck", "barrier", "best_cell"), ("racecheck", "add", "insert")],
)
def test_a_planted_bug_is_found(real_device, tool, bug, kernel):
    done = watched(tool, bug)
    assert done.returncode == FOUND, done.stdout[-3000:]
    assert kernel in done.stdout
