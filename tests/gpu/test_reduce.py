"""Several workers, a share of the images each: the sums are those of one, whoever adds them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streamrecon.compute.cuda import reduce
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.reduce import HostReducer, NcclReducer, OneDevice, open_reducer, share_of
from streamrecon.compute.selftest import CheckSizes, Scene
from streamrecon.errors import DeviceError
from tests.gpu.shim.build import build
from tests.gpu.standin.device import StandInDevice

SIZES = CheckSizes(box=32, k_max=10, images=11, samples=5)
PAD = 2


def solved(backend, rows):
    """The map and the shell weights from the rows of one mini-batch that this worker inserted."""
    scene = Scene(backend, SIZES)
    moved = (scene.weighed[:, rows], scene.rotation[rows], scene.shift[rows])
    weight = np.full((SIZES.images, SIZES.samples), 1 / SIZES.samples, np.float32)[rows]
    side = 2 * scene.radius + 1
    grid = backend.zeros((side, side, scene.radius + 1, 4))
    arguments = [backend.to_device(np.ascontiguousarray(a)) for a in (*moved, weight)]
    backend.insert(grid, PAD, scene.points, SIZES.box, *arguments, 0.0, 1.0)
    shells = backend.shell_weights(grid, PAD, SIZES.k_max + 2)
    volume = backend.solve((grid, grid), PAD, SIZES.k_max, shells + 1e-6, 0.5, SIZES.box)
    return backend.to_host(volume), shells


def other_worker(library, rank, size, peer):
    """What another process does; it says nothing of its result but takes part in the sums."""
    device = StandInDevice(Path(library))
    backend = CudaBackend(device)
    backend.reducer = open_reducer(device, rank, size, [peer])
    solved(backend, share_of(rank, size, SIZES.images))


@pytest.mark.parametrize("size", [2, 3])
def test_workers_solve_the_map_of_one(library_folder, device, size):
    alone, shells_alone = solved(CudaBackend(device), slice(None))
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(1, size)]
    library = str(build(library_folder))
    others = [
        context.Process(target=other_worker, args=(library, rank, size, pipes[rank - 1][1])) for rank in range(1, size)
    ]
    for process in others:
        process.start()
    try:
        backend = CudaBackend(device)
        backend.reducer = open_reducer(device, 0, size, [ours for ours, _ in pipes])
        assert isinstance(backend.reducer, HostReducer)
        together, shells = solved(backend, share_of(0, size, SIZES.images))
    finally:
        for process in others:
            process.join(60)
            process.kill()
    assert [process.exitcode for process in others] == [0] * (size - 1)
    np.testing.assert_allclose(shells, shells_alone, rtol=1e-5)
    assert np.abs(together - alone).max() < 1e-5 * np.abs(alone).max()
    # and the share alone is not the map: the sum is what makes it
    part, _ = solved(CudaBackend(device), share_of(0, size, SIZES.images))
    assert np.abs(part - alone).max() > 1e-2 * np.abs(alone).max()


def test_shares_are_whole_and_even():
    for n in (0, 1, 7, 100):
        rows = [share_of(rank, 4, n) for rank in range(4)]
        assert [i for r in rows for i in range(n)[r]] == list(range(n))
        lengths = [len(range(n)[r]) for r in rows]
        assert max(lengths) - min(lengths) <= 1


def test_one_device_needs_no_sum(device):
    array = device.upload(np.ones(3, np.float32))
    assert OneDevice().sum(array) is array
    assert isinstance(open_reducer(device, 0, 1, []), OneDevice)


def test_a_worker_that_is_gone_is_an_error(device, monkeypatch):
    ours, theirs = multiprocessing.Pipe()
    reducer = HostReducer(device, 0, 2, [ours])
    monkeypatch.setattr(reduce, "_DEADLINE_SECONDS", 0.05)
    with pytest.raises(DeviceError, match="worker 1 has sent nothing"):
        reducer.sum(device.upload(np.ones(3, np.float32)))
    theirs.close()
    with pytest.raises(DeviceError, match="worker 1 is gone"):
        reducer.sum(device.upload(np.ones(3, np.float32)))


@pytest.mark.parametrize("n_bytes", [8, 4000])
def test_a_message_of_another_size_is_refused(device, n_bytes):
    ours, theirs = multiprocessing.Pipe()
    theirs.send_bytes(b"\0" * n_bytes)
    with pytest.raises(DeviceError, match=r"worker 1.*(sent 8 bytes, expected 12|more than the 12 bytes)"):
        HostReducer(device, 0, 2, [ours]).sum(device.upload(np.ones(3, np.float32)))


def test_connections_must_be_as_many_as_workers(device):
    with pytest.raises(DeviceError, match="found 0 connections, expected 2"):
        HostReducer(device, 0, 3, [])


def test_nccl_is_given_the_whole_array():
    """What CuPy's interface asks for: addresses, a count, a type, an operation and a stream."""
    calls = []

    class Communicator:
        def __init__(self, *arguments):
            calls.append(arguments)

        def allReduce(self, *arguments):
            calls.append(arguments)

    nccl = SimpleNamespace(NCCL_FLOAT32=7, NCCL_FLOAT64=8, NCCL_SUM=0, NcclCommunicator=Communicator)
    array = SimpleNamespace(data=SimpleNamespace(ptr=100), size=5, dtype=np.dtype(np.float64))
    out = SimpleNamespace(data=SimpleNamespace(ptr=200))
    cuda = SimpleNamespace(nccl=nccl, get_current_stream=lambda: SimpleNamespace(ptr=300))
    cupy = SimpleNamespace(cuda=cuda, ascontiguousarray=lambda a: a, empty_like=lambda a: out)
    assert NcclReducer(cupy, 1, 4, (1, 2)).sum(array) is out
    assert calls == [(4, (1, 2), 1), (100, 200, 5, 8, 0, 300)]
