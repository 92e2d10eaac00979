"""The mistakes that CUDA code is prone to, planted one by one: at least one layer of the verification catches each.

The clean kernels pass the same layers: with the bug taken out, each of these tests would fail.
"""

from __future__ import annotations

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda import launch
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.selftest import compare_with_cpu
from streamrecon.errors import DeviceError
from tests.gpu.sanitized import PARTS
from tests.gpu.sanitizers import run_sanitized
from tests.gpu.seeded_bugs import (
    BEYOND_THE_CUBE,
    CENTRE_OFF_BY_ONE,
    EDGE_LEFT_OUT,
    MISSING_BARRIER,
    OUTPUT_BY_ALL,
    PLAIN_ADD,
    SYNTAX_OF_THE_HOST,
)
from tests.gpu.shim.build import build, edited_source
from tests.gpu.standin.device import StandInDevice
from tests.gpu.test_compile import ARCHITECTURES, compile_for


def differing(library):
    return {c.name for c in compare_with_cpu(CudaBackend(StandInDevice(library))) if not c.good}


@pytest.mark.parametrize("kind", ["address", "thread"])
def test_the_clean_kernels_pass_the_sanitizers(library_folder, kind):
    done = run_sanitized(kind, build(library_folder, kind), *PARTS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all results agree" in done.stdout


def test_a_write_beyond_the_cube_is_caught_by_the_address_sanitizer(library_folder):
    done = run_sanitized("address", build(library_folder, "address", [BEYOND_THE_CUBE]), "volumes")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "grids.cu" in done.stderr  # with the line


def test_an_index_off_by_one_is_caught_by_the_comparison(library_folder):
    names = differing(build(library_folder, edits=[CENTRE_OFF_BY_ONE]))
    assert {"score", "residual", "slice_coefficients[0]", "insert numerator"} <= names


def test_an_edge_left_out_is_caught_by_the_comparison(library_folder):
    assert edge_differs(build(library_folder, edits=[EDGE_LEFT_OUT]))
    assert not edge_differs(build(library_folder))


def edge_differs(library):
    """Compare cubes that reach as far as the transform they are cut from, all shells filled."""
    volume = np.random.default_rng(0).normal(size=(32,) * 3).astype(np.float32)
    backend = CudaBackend(StandInDevice(library))
    found = backend.to_host(backend.cube(backend.to_device(volume), 2, 34))
    expected = CpuBackend(1).cube(volume, 2, 34)
    return bool(np.abs(found - expected).max() > 1e-5 * np.abs(expected).max())


def test_a_missing_barrier_is_caught_by_the_comparison(library_folder):
    assert "shell_power" in differing(build(library_folder, edits=[MISSING_BARRIER]))


TRIES = 5
RACES = {"shell_power": MISSING_BARRIER, "insert_slices": PLAIN_ADD, "ring_power_weight": OUTPUT_BY_ALL}


def test_races_are_caught_by_the_thread_sanitizer(library_folder):
    """It remembers a few accesses of each address only: on a busy machine a race can be forgotten before it is seen."""
    library = build(library_folder, "thread", list(RACES.values()))
    unseen = set(RACES)
    for _ in range(TRIES):
        done = run_sanitized("thread", library, "images", "search", "poses", to_the_end=True)
        reports = done.stderr.split("WARNING: ThreadSanitizer: data race")[1:]
        unseen -= {kernel for kernel in unseen if any(f"call_{kernel}" in report for report in reports)}
        if not unseen:
            break
    assert not unseen, done.stderr[-3000:]
    assert done.returncode == 66


def test_a_scalar_of_the_wrong_type_is_caught_by_the_comparison(device, monkeypatch):
    """What CuPy would do with a Python float: pass it as a double."""

    exact = launch._scalar

    def as_cupy_would(where, kind, value):
        return np.float64(value) if isinstance(value, float) else exact(where, kind, value)

    monkeypatch.setattr(launch, "_scalar", as_cupy_would)
    names = {c.name for c in compare_with_cpu(CudaBackend(device)) if not c.good}
    assert {"score", "residual", "normalise[0]"} <= names


def test_an_array_of_the_wrong_type_is_refused(device, monkeypatch):
    original = CudaBackend._empty
    monkeypatch.setattr(CudaBackend, "_empty", lambda self, *shape, dtype=np.float32: original(self, *shape))
    with pytest.raises(DeviceError, match=r"cell_masses, double\* summary: found an array of float32"):
        compare_with_cpu(CudaBackend(device))


def test_a_host_array_is_refused(device, monkeypatch):
    monkeypatch.setattr(CudaBackend, "to_device", lambda self, array: array)
    with pytest.raises((DeviceError, TypeError), match=r"host array|found a ndarray"):
        compare_with_cpu(CudaBackend(device))


def test_what_only_the_host_knows_is_caught_by_nvrtc(library_folder):
    """The host's compiler takes it: the shim alone would not notice."""
    build(library_folder, edits=[SYNTAX_OF_THE_HOST])
    with pytest.raises(ValueError, match=r"grids\.cu.*std"):
        compile_for(ARCHITECTURES[0], edited_source([SYNTAX_OF_THE_HOST]))
