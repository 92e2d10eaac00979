"""The kernels compiled for the host, once a run; the stand-in for a device, and a real device where there is one."""

from __future__ import annotations

import gc
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.errors import DeviceError
from tests.gpu.shim.build import FLAGS, build
from tests.gpu.standin.array import MEMORY
from tests.gpu.standin.device import StandInDevice


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory):
    """Where compiled kernels are kept while the tests run; the common ones are compiled side by side."""
    if shutil.which("g++") is None:
        pytest.skip("g++, which compiles the kernels for the host, is not installed")
    folder = tmp_path_factory.mktemp("kernels")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda kind: build(folder, kind), FLAGS))
    return folder


@pytest.fixture
def memory():
    """The pretended device's memory and traffic, counted anew; what earlier tests left in it is gone."""
    gc.collect()
    MEMORY.limit = None
    MEMORY.peak = MEMORY.used
    MEMORY.traffic.clear()
    yield MEMORY
    MEMORY.limit = None


@pytest.fixture
def device(library_folder, memory):
    """A stand-in for a device."""
    return StandInDevice(build(library_folder))


@pytest.fixture
def real_device():
    """A CUDA device, or the reason why there is none."""
    try:
        return open_device()
    except DeviceError as error:
        pytest.skip(f"no usable CUDA device: {error}")


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def any_device(request):
    """The stand-in, and the real device: the same cases for both."""
    return request.getfixturevalue("real_device" if request.param == "device" else "device")


@pytest.fixture(params=["single", "half"])
def any_backend(request, any_device):
    """The CUDA backend at either precision of the cube."""
    return CudaBackend(any_device, request.param)
