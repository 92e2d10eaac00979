"""Several devices: an engine on each makes the map of one, and what NCCL is asked for."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from streamrecon.compute.cuda import reduce
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.reduce import NcclSum, device_address, load_nccl
from streamrecon.errors import DeviceError
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.worker.ranks.collective import RankCollective, nccl_address
from tests.gpu.shim.build import build
from tests.gpu.standin.device import StandInDevice
from tests.ranks import on_ranks
from tests.simulated import batches, f1_atpase

BOX, PIXEL = 32, 6.4
SETTINGS = EngineSettings(starts=1, search_shells=8, in_plane_angles=24, direction_order=2, samples=16)


def test_two_devices_make_the_map_of_one(library_folder, device):
    """On the stand-in: sums leave one device and come to the other through the host."""
    data = [b for b, _ in batches(f1_atpase(BOX, PIXEL), PIXEL, 60, 4.0, seed=3, size=30)]

    def work(engine):
        results = [engine.fold(batch) for batch in data]
        return results, engine.snapshot().volume

    alone, expected = work(Engine(SETTINGS, BOX, PIXEL, CudaBackend(device), 1))

    def on_rank(link):
        backend = CudaBackend(StandInDevice(build(library_folder)))
        return work(Engine(SETTINGS, BOX, PIXEL, backend, 1, collective=RankCollective(link, backend)))

    for results, volume in on_ranks(2, on_rank):
        for found, one in zip(results, alone, strict=True):
            # a draw on a boundary may go the other way by rounding
            assert (np.abs(found.rotation - one.rotation).max(axis=(1, 2)) < 1e-3).mean() > 0.95
        assert np.abs(volume - expected).max() < 0.05 * np.abs(expected).max()


def fake_nccl(calls):
    class Communicator:
        def __init__(self, *arguments):
            calls.append(arguments)
            if arguments[1] == b"broken":
                raise RuntimeError("NCCL_ERROR_INVALID_USAGE")

        def allReduce(self, *arguments):
            calls.append(arguments)

    return SimpleNamespace(
        available=True, NCCL_FLOAT32=7, NCCL_FLOAT64=8, NCCL_SUM=0, NcclCommunicator=Communicator,
    )  # fmt: skip


def test_nccl_is_given_the_whole_array_and_waited_for():
    """What CuPy's interface asks for: addresses, a count, a type, an operation and a stream."""
    calls, waited = [], []
    array = SimpleNamespace(data=SimpleNamespace(ptr=100), size=5, dtype=np.dtype(np.float64))
    out = SimpleNamespace(data=SimpleNamespace(ptr=200))
    stream = SimpleNamespace(ptr=300, synchronize=lambda: waited.append(len(calls)))
    cuda = SimpleNamespace(get_current_stream=lambda: stream)
    device = SimpleNamespace(xp=SimpleNamespace(cuda=cuda, ascontiguousarray=lambda a: a, empty_like=lambda a: out))
    assert NcclSum(device, fake_nccl(calls), 1, 4, b"identity").sum(array) is out
    assert calls == [(4, b"identity", 1), (100, 200, 5, 8, 0, 300)]
    assert waited == [2]


def test_devices_that_nccl_cannot_connect_are_an_error():
    with pytest.raises(DeviceError, match="NCCL_ERROR_INVALID_USAGE"):
        NcclSum(SimpleNamespace(xp=None), fake_nccl([]), 0, 2, b"broken")


def test_the_names_that_are_used_are_those_of_the_real_nccl():
    """Where its library is installed; the class and the constants of CuPy's module, not a stand-in's."""
    nccl = load_nccl()
    if nccl is None:
        pytest.skip("NCCL's library is not installed (nvidia-nccl-cu13)")
    assert "commId (bytes)" in nccl.NcclCommunicator.__doc__
    assert callable(nccl.NcclCommunicator.allReduce)
    identity = nccl.get_unique_id()
    assert isinstance(identity, bytes)
    assert {nccl.NCCL_FLOAT32, nccl.NCCL_FLOAT64, nccl.NCCL_SUM} >= {0}


def test_nccl_is_cupys_module_and_none_without_its_library(monkeypatch):
    real = importlib.import_module

    def modules(found):
        return lambda name: found if name == "cupy.cuda.nccl" else real(name)

    monkeypatch.setattr(reduce.importlib, "import_module", modules(SimpleNamespace(available=False)))
    assert load_nccl() is None
    there = fake_nccl([])
    monkeypatch.setattr(reduce.importlib, "import_module", modules(there))
    assert load_nccl() is there


def test_a_device_has_a_place_on_the_bus_and_a_stand_in_has_none(device, monkeypatch):
    runtime = SimpleNamespace(deviceGetPCIBusId=lambda number: f"0000:{number:02x}:00.0")
    real = SimpleNamespace(number=3, xp=SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    assert device_address(real) == "0000:03:00.0"
    assert device_address(device) == ""
    monkeypatch.setattr("streamrecon.worker.ranks.collective.load_nccl", lambda: fake_nccl([]))
    assert nccl_address(CudaBackend(device)) == ""
