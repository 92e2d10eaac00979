"""Vectorised elementary functions against NumPy's."""

import numpy as np
from numba import njit

from streamrecon.compute.cpu_kernels.simd import exp_fast, unit_phase


@njit
def _phases(turns, out):
    for i in range(turns.shape[0]):
        out[i, 0], out[i, 1] = unit_phase(turns[i])


@njit
def _exponentials(x, out):
    for i in range(x.shape[0]):
        out[i] = exp_fast(x[i])


def test_phases_are_those_of_the_whole_circle():
    turns = np.concatenate([np.linspace(-2, 2, 4001), np.linspace(-64, 64, 999)]).astype(np.float32)
    out = np.empty((len(turns), 2), np.float32)
    _phases(turns, out)
    exact = np.exp(2j * np.pi * turns.astype(np.float64))
    assert np.abs(out[:, 0] + 1j * out[:, 1] - exact).max() < 7e-7


def test_exponentials_of_negative_numbers():
    x = np.linspace(-90, 0, 5001).astype(np.float32)
    out = np.empty_like(x)
    _exponentials(x, out)
    inside = x > -86
    exact = np.exp(x[inside].astype(np.float64))
    # the argument itself, times log2(e), is rounded: that much of |x| no polynomial can make good
    assert np.all(np.abs(out[inside] - exact) <= (3e-7 + 1.2e-7 * np.abs(x[inside])) * exact)
    assert not out[~inside].any()
