"""The simulator as a process: what a signal leaves behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from streamrecon.io import check_complete, probe_stack, read_manifest, read_star, write_volume

# a shell that starts tests in the background may have SIGINT ignored, which children inherit
PROGRAM = """
import signal, typer
from streamrecon.cli.simulate import simulate
signal.signal(signal.SIGINT, signal.default_int_handler)
typer.run(simulate)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_files_only(tmp_path: Path, number: signal.Signals) -> None:
    z, y, x = np.mgrid[:16, :16, :16] - 8
    write_volume(tmp_path / "map.mrc", np.exp(-(x**2 / 9 + y**2 / 4 + z**2 / 2)), 4.0)
    out = tmp_path / "in"
    command = f"{out} --map {tmp_path / 'map.mrc'} --box 16 --pixel-size 4"
    command += " --micrographs-of 5 --rate 20 --particles 9999"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *command.split()], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while len(list(out.rglob("*.mrcs"))) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "whole stacks and manifests only" in " ".join(errors.split())
    stacks = sorted(out.rglob("*.mrcs"))
    assert len(stacks) >= 2
    for stack in stacks:
        check_complete(probe_stack(stack))
        assert probe_stack(stack).nz == 5
        assert stack.with_name(f"{stack.stem}_extract.star").exists()
    joined = read_manifest(out / "Extract/job007/particles.star", out)
    assert sorted(joined.stack_names) == [str(s) for s in stacks]
    truth = set(read_star(tmp_path / "in-truth" / "ground_truth.star").identities())
    assert truth >= set(read_star(out / "Extract/job007/particles.star").identities())
    assert not [p for p in out.rglob(".*") if p.is_file()]
