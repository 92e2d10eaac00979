"""The choice of a backend: what is there, what is asked for, and why; the check that a user runs first."""

from __future__ import annotations

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import gpu as gpu_benchmark
from benchmarks.gpu_roofline import BOXES, GPUS, floor_seconds, table
from benchmarks.kernel_costs import Cost
from streamrecon.cli.main import app
from streamrecon.compute.choose import ComputeSettings, choose_backend
from streamrecon.compute.cuda import device as device_module
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import CupyDevice
from streamrecon.config import Config
from streamrecon.errors import DeviceError
from streamrecon.worker.engine import make_backend
from tests.gpu.seeded_bugs import CENTRE_OFF_BY_ONE
from tests.gpu.shim.build import build
from tests.gpu.standin.device import StandInDevice


def none_there(number, share, tf32):
    raise DeviceError("no CUDA driver answers")


def test_auto_takes_a_device_that_gives_the_right_results(device):
    chosen = choose_backend(ComputeSettings(), open_device=lambda *_: device)
    assert isinstance(chosen.backend, CudaBackend)
    assert "agree" in chosen.reason


def test_auto_falls_back_to_the_cpu_and_says_why():
    chosen = choose_backend(ComputeSettings(), threads=1, open_device=none_there)
    assert chosen.backend.name == "cpu"
    assert chosen.reason == "no CUDA device can be used: no CUDA driver answers"


def test_a_device_with_wrong_results_is_not_used(library_folder, memory):
    broken = StandInDevice(build(library_folder, edits=[CENTRE_OFF_BY_ONE]))
    chosen = choose_backend(ComputeSettings(), threads=1, open_device=lambda *_: broken)
    assert chosen.backend.name == "cpu"
    assert "results differ from the CPU's: " in chosen.reason
    with pytest.raises(DeviceError, match=r'compute\.backend = "cuda".*score'):
        choose_backend(ComputeSettings(backend="cuda"), open_device=lambda *_: broken)


def test_a_library_that_is_missing_is_a_device_error(device, monkeypatch):
    """CuPy loads cuBLAS and cuFFT when they are first used: in the comparison, at the latest."""

    def missing(*_, **__):
        raise ImportError("libcufft.so.12: cannot open shared object file")

    monkeypatch.setattr(CudaBackend, "image_transforms", missing)
    chosen = choose_backend(ComputeSettings(), threads=1, open_device=lambda *_: device)
    assert "libcufft" in chosen.reason


def test_cuda_asked_for_and_not_there_is_an_error():
    with pytest.raises(DeviceError, match=r'compute\.backend = "cuda": no CUDA driver answers'):
        choose_backend(ComputeSettings(backend="cuda"), open_device=none_there)


def test_the_cpu_is_taken_when_asked_for():
    chosen = choose_backend(ComputeSettings(backend="cpu"), threads=1, open_device=none_there)
    assert (chosen.backend.name, chosen.reason) == ("cpu", 'compute.backend = "cpu"')


def test_the_configuration_decides():
    config = Config.model_validate({"compute": {"backend": "cpu"}, "engine": {"threads": 1}})
    backend = make_backend(config)
    assert (backend.name, backend.threads) == ("cpu", 1)


def test_without_cupy_the_error_names_the_extras(monkeypatch):
    def no_cupy(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(device_module.importlib, "import_module", no_cupy)
    with pytest.raises(DeviceError, match=r"No module named 'cupy'.*streamrecon\[cuda12\]"):
        CupyDevice()


def test_check_on_this_machine():
    outcome = CliRunner().invoke(app, ["check", "--particles", "200"])
    assert outcome.exit_code == 0, outcome.output
    assert "verdict: good" in outcome.output
    assert float(re.search(r"(\d+) particles/s", outcome.output).group(1)) > 0


def test_check_of_a_device(device, monkeypatch):
    monkeypatch.setattr("streamrecon.cli.check.open_device", lambda *_: device)
    monkeypatch.setattr("streamrecon.cli.check._LARGE", None)
    monkeypatch.setattr("streamrecon.cli.check.particles_per_second", lambda *_: 1.0)
    outcome = CliRunner().invoke(app, ["check", "--gpu"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0, outcome.output
    for part in ("stand-in for a device", "score", "insert weight", "closed form", "verdict: good"):
        assert part in outcome.output


def test_check_of_a_device_with_wrong_results(library_folder, memory, monkeypatch):
    broken = StandInDevice(build(library_folder, edits=[CENTRE_OFF_BY_ONE]))
    monkeypatch.setattr("streamrecon.cli.check.open_device", lambda *_: broken)
    monkeypatch.setattr("streamrecon.cli.check._LARGE", None)
    outcome = CliRunner().invoke(app, ["check", "--gpu"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 6
    assert "WRONG" in outcome.output


@pytest.mark.gpu
def test_check_of_a_real_device(real_device):
    outcome = CliRunner().invoke(app, ["check", "--gpu"])
    assert outcome.exit_code == 0, outcome.output


def test_the_roofline_is_the_larger_of_two_times():
    gpu = GPUS[0]
    by_flops = Cost(flops=1e9, bytes=1.0, working_set=1e12)
    by_bytes = Cost(flops=1.0, bytes=1e9, working_set=1e12)
    assert floor_seconds(by_flops, gpu) == pytest.approx(1e9 / 19.5e12)
    assert floor_seconds(by_bytes, gpu) == pytest.approx(1e9 / 2039e9)
    assert floor_seconds(Cost(1.0, 1e9, 1e6), gpu) == pytest.approx(1e9 / 4500e9)  # from the cache
    rates = [table(box)[1]["H100 SXM"] for box in BOXES[:2]]
    assert rates[0] > rates[1] > 0


def test_the_benchmark_runs(device, monkeypatch):
    """On the stand-in, so that it is ready where a device is; its times mean nothing there."""
    monkeypatch.setattr(gpu_benchmark, "_REPEATS", 1)
    rows = gpu_benchmark.measure(CudaBackend(device), 64, 8, 2)
    assert {row["method"] for row in rows} >= {"score", "insert", "image_transforms", "upload of the images"}
    assert all(np.isfinite(row["us/image"]) for row in rows)
    assert gpu_benchmark.nearest("NVIDIA H100 80GB HBM3, 80 GiB").name == "H100 SXM"
    assert gpu_benchmark.nearest("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert gpu_benchmark.nearest("NVIDIA T4") is None
