"""Every kernel agrees with the CPU backend, over random shapes; the same on the stand-in and on a real device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.source import signatures
from streamrecon.compute.selftest import CheckSizes, compare_with_cpu
from tests.gpu.shim.build import build
from tests.gpu.standin.device import StandInDevice


def wrong(backend, sizes=None):
    return [c for c in compare_with_cpu(backend, sizes) if not c.good]


def test_all_results_agree_with_the_cpu(any_backend):
    assert wrong(any_backend) == []


def test_every_kernel_was_compared(device):
    for precision in ("single", "half"):
        compare_with_cpu(CudaBackend(device, precision))
    assert set(device.kernels.launches) == set(signatures())


@st.composite
def sizes(draw):
    box = 2 * draw(st.integers(16, 26))
    return CheckSizes(
        box=box,
        k_max=draw(st.integers(2, box // 2 - 2)),
        images=draw(st.integers(1, 9)),
        samples=draw(st.integers(2, 70)),
        rings=draw(st.integers(4, box // 2 - 6)),
        in_plane_angles=2 * draw(st.integers(2, 14)),
        direction_order=draw(st.sampled_from([1, 2])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@given(sizes=sizes(), precision=st.sampled_from(["single", "half"]))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_results_agree_at_any_size(device, sizes, precision):
    assert wrong(CudaBackend(device, precision), sizes) == []


@pytest.mark.gpu
def test_results_agree_on_a_device_at_the_sizes_it_is_made_for(real_device):
    for box, k_max in ((64, 29), (128, 58), (256, 118)):
        assert wrong(CudaBackend(real_device), CheckSizes(box=box, k_max=k_max, rings=14, images=8, samples=48)) == []


def test_half_precision_is_close_but_not_the_same(any_device):
    """Packing the map costs a score less than a thousandth of the largest."""
    errors = {
        precision: next(c for c in compare_with_cpu(CudaBackend(any_device, precision)) if c.name == "score").error
        for precision in ("single", "half")
    }
    assert errors["single"] < 1e-5
    assert errors["single"] < errors["half"] < 1e-3


@pytest.mark.parametrize("core", [-1, 0, 3, 8])
def test_insertion_does_not_depend_on_the_privatised_core(any_device, monkeypatch, core):
    monkeypatch.setattr("streamrecon.compute.cuda.poses._CORE", core)
    assert [c for c in wrong(CudaBackend(any_device)) if "insert" in c.name] == []


def test_threads_that_wait_at_different_barriers_are_reported(library_folder):
    """The shim itself: a barrier that only some threads reach is a deadlock on a device, and an error here."""
    edit = ("    if (lane == 0) scratch[warp] = v;\n    __syncthreads();\n    if (warp == 0) v = warp_max",) * 2
    edit = (edit[0], edit[0].replace("    __syncthreads();", "    if (lane == 0) __syncthreads();"))
    device = StandInDevice(build(library_folder, edits=[edit]))
    with pytest.raises(RuntimeError, match=r"best_cell.*deadlock"):
        compare_with_cpu(CudaBackend(device))


def test_what_a_kernel_leaves_unwritten_shows(device):
    """The stand-in's `empty` is full of NaN."""
    assert np.isnan(device.xp.empty((3, 2), np.float32).get()).all()
