"""The stand-in refuses what the real CuPy refuses, and what it would copy without saying so."""

from __future__ import annotations

import cupy
import numpy as np
import pytest

from tests.gpu.standin.module import StandIn

HOST = np.arange(4, dtype=np.float32)


@pytest.fixture
def xp(memory):
    return StandIn(cupy)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda xp, d: d + HOST,
        lambda xp, d: HOST + d,
        lambda xp, d: np.asarray(d),
        lambda xp, d: np.concatenate([d, d]),
        lambda xp, d: np.exp(d),
        lambda xp, d: HOST.__iadd__(d),
        lambda xp, d: xp.exp(HOST),
        lambda xp, d: xp.matmul(d, HOST),
        lambda xp, d: xp.concatenate([d, HOST]),
        lambda xp, d: d[np.array([0, 1])],
        lambda xp, d: d[[0, 1]],
        lambda xp, d: d.__setitem__(0, HOST[:1]),
        lambda xp, d: list(d),
        lambda xp, d: d.tolist(),
    ],
)
def test_host_and_device_do_not_mix(xp, mixed):
    with pytest.raises((TypeError, AttributeError)):
        mixed(xp, xp.asarray(HOST))


def test_names_and_arguments_that_the_real_one_lacks(xp):
    with pytest.raises(AttributeError, match="nditer"):
        _ = xp.nditer
    with pytest.raises(TypeError, match=r"real cupy\.zeros"):
        xp.zeros((3,), np.float32, device="cpu", no_such=1)


def test_reductions_stay_on_the_device(xp, memory):
    total = xp.asarray(HOST).sum()
    assert isinstance(total, xp.ndarray)
    assert memory.traffic["sync"] == 0
    assert float(total) == 6.0
    assert memory.traffic["sync"] == 1


def test_repeated_indices_in_an_assignment(xp):
    with pytest.raises(ValueError, match="repeated"):
        xp.asarray(HOST)[xp.asarray(np.array([1, 1]))] = 5.0


def test_views_share_memory_and_arrays_are_counted(xp, memory):
    before = memory.used
    array = xp.zeros((8, 4), np.float32)
    part = array[2:4]
    part[0] = 3.0
    assert array.get()[2].tolist() == [3.0] * 4
    assert memory.used - before == 128
    del array
    assert memory.used - before == 128  # the view keeps it
    del part
    assert memory.used == before


def test_memory_has_an_end(xp, memory):
    memory.limit = memory.used + 100
    with pytest.raises(MemoryError, match="out of memory"):
        xp.zeros(1000, np.float32)
