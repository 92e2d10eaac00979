"""The launcher refuses what a device would take without a word, and makes scalars exactly what is declared."""

from __future__ import annotations

import numpy as np
import pytest

from streamrecon.compute.cuda.launch import Kernels
from streamrecon.compute.cuda.source import parse_signatures
from streamrecon.errors import DeviceError
from tests.gpu.standin.array import DeviceArray

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) scale(const float2* __restrict__ in, float* out, int n, float factor,
    long long size)
"""


@pytest.fixture
def launched():
    """Kernels that only note what they are called with."""
    calls = []

    def functions(name):
        return lambda grid, block, args, *, shared_mem: calls.append((name, grid, block, args, shared_mem))

    return Kernels(functions, parse_signatures(SOURCE), DeviceArray), calls


def arguments(**changes):
    made = {
        "in": DeviceArray(np.zeros((4, 2), np.float32)),
        "out": DeviceArray(np.zeros(4, np.float32)),
        "n": 4,
        "factor": 2.0,
        "size": np.int64(2**40),
    }
    return [*{**made, **changes}.values()]


def test_scalars_become_what_is_declared(launched):
    kernels, calls = launched
    kernels.launch("scale", 3, 64, arguments(n=np.int64(4), factor=2), 16)
    _, grid, block, args, shared = calls[0]
    assert (grid, block, shared) == ((3, 1), (64,), 16)
    assert [type(a) for a in args[2:]] == [np.int32, np.float32, np.int64]
    assert [a.item() for a in args[2:]] == [4, 2.0, 2**40]


def test_an_empty_grid_is_not_launched(launched):
    kernels, calls = launched
    kernels.launch("scale", 0, 64, arguments())
    assert calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": np.zeros(4, np.float32)}, r"float\* out: found a ndarray, expected an array on the device"),
        ({"out": DeviceArray(np.zeros(4))}, "array of float64, expected float32"),
        ({"in": DeviceArray(np.zeros((4, 3), np.float32))}, "expected vectors along its last axis"),
        ({"out": DeviceArray(np.zeros((4, 4), np.float32)[:, 0])}, "contiguous"),
        ({"n": 4.0}, "expected a whole number"),
        ({"n": 2**31}, "2147483648 does not fit"),
        ({"factor": DeviceArray(np.float32(1))}, "expected a number on the host"),
        ({"n": DeviceArray(np.int32(1)), "factor": "x"}, "expected"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(launched, changes, message):
    kernels, calls = launched
    with pytest.raises(DeviceError, match=message):
        kernels.launch("scale", 1, 64, arguments(**changes))
    assert calls == []


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "message"),
    [
        (1, 48, 0, "whole warps"),
        (1, 128, 0, "64 at most"),
        ((1, 70_000), 64, 0, "more than a device takes"),
        (1, 64, 50_000, "shared memory"),
    ],
)
def test_shapes_that_a_device_refuses(launched, blocks, threads, shared, message):
    with pytest.raises(DeviceError, match=message):
        launched[0].launch("scale", blocks, threads, arguments(), shared)


def test_a_missing_argument(launched):
    with pytest.raises(DeviceError, match="4 arguments, expected 5"):
        launched[0].launch("scale", 1, 64, arguments()[:4])
