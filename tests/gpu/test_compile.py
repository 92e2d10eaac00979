"""The kernels compile for every architecture, with the compiler that CuPy uses; none spills registers."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from cupy.cuda import nvrtc

from streamrecon.compute.cuda.source import OPTIONS, kernel_source, signatures

OLDEST = 75
ARCHITECTURES = tuple(a for a in nvrtc.getSupportedArchs() if a >= OLDEST)


def compile_for(architecture: int, source: str) -> bytes:
    program = nvrtc.createProgram(source, "kernels.cu", [], [])
    options = [f"-arch=sm_{architecture}", "--device-as-default-execution-space", *OPTIONS]
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        raise ValueError(nvrtc.getProgramLog(program)) from None
    return nvrtc.getCUBIN(program)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_with_nvrtc(architecture):
    binary = compile_for(architecture, kernel_source())
    assert binary[:4] == b"\x7fELF"
    for name in signatures():
        assert name.encode() in binary


def test_the_architectures_reach_from_turing_to_the_latest():
    assert {75, 80, 86, 89, 90, 100, 120} <= set(ARCHITECTURES)


def test_a_mistake_is_reported_with_its_file():
    with pytest.raises(ValueError, match=r"slices\.cu"):
        compile_for(OLDEST, kernel_source().replace("score_block(\n", "score_blocks(\n"))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc, of the CUDA toolkit, is not installed")
@pytest.mark.parametrize("architecture", [75, 80, 90, 120])
def test_no_kernel_spills(architecture, tmp_path):
    unit = tmp_path / "kernels.cu"
    unit.write_text(kernel_source())
    command = ["nvcc", f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", *OPTIONS[:1], unit, "-o", tmp_path / "x"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    # one line a kernel: "... bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(spills) >= len(signatures())
    assert set(spills) == {("0", "0")}
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    assert max(registers) <= 64  # four blocks of 256 threads fit into a multiprocessor


def test_signatures_are_read_from_the_source():
    parameters = signatures()["score_poses"].parameters
    assert [(p.type, p.name) for p in parameters[:3]] == [("float2*", "cube"), ("int", "radius"), ("float", "pad")]
    assert parameters[0].constant
    assert not parameters[-1].constant
    assert signatures()["score_poses"].max_threads == 128
    # as many as the compiler sees
    assert len(signatures()) == kernel_source().count("__global__")
