"""The same arrays give the same bits wherever in memory they lie.

A loop that reads one array and writes another is compiled twice, as vectors and one by one, and which of the two runs
is decided by how close the arrays lie. With ``fastmath`` the two may round differently (sums in another order,
reciprocals in the place of divisions): what a kernel returned then hung on the heap, and a session was not its own
repetition.
"""

import re

import numpy as np
import pytest
from numba import njit
from numba.core.registry import CPUDispatcher

from streamrecon.assess.band import Band
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cpu_kernels import cells, grids, images, sampling, slices, symmetry
from streamrecon.compute.selftest import compare_with_cpu
from streamrecon.geometry.orientation import Orientation
from streamrecon.reconstruct.symmetrise import turned_map

# what asks, before a loop, whether its arrays lie close
_ASKS = re.compile(r"^(vector\.memcheck|\w+\.lver\.check)[\w.]*:", re.MULTILINE)


@pytest.fixture(scope="module")
def used():
    """Every kernel called once, as the engine calls it: they have the types that it uses."""
    backend = CpuBackend(1)
    compare_with_cpu(backend)
    volume = np.random.default_rng(0).normal(size=(32,) * 3).astype(np.float32)
    Band(volume, 4).sample(backend.cube(volume, 2, 16), np.eye(3)[None])
    turned_map(backend, volume, 2, 8, 32, Orientation())


def _machine_code(kernel):
    """Return the optimised LLVM code of a kernel; from its cache Numba has none, so it is compiled again."""
    (signature, *_) = kernel.signatures
    options = {name: kernel.targetoptions[name] for name in ("nogil", "fastmath", "error_model")}
    again = njit(**options)(kernel.py_func)
    again.compile(signature)
    return again.inspect_llvm(signature)


def _fast_kernels():
    for module in (cells, grids, images, sampling, slices, symmetry):
        for name, kernel in vars(module).items():
            if not isinstance(kernel, CPUDispatcher) or kernel.py_func.__module__ != module.__name__:
                continue
            options = kernel.targetoptions
            if options.get("fastmath") and options.get("inline") != "always":  # those are parts of the others
                yield pytest.param(kernel, id=name)


@pytest.mark.parametrize("kernel", list(_fast_kernels()))
def test_no_fast_kernel_asks_how_close_its_arrays_lie(kernel, used):
    code = _machine_code(kernel)
    assert len(code) > 10_000
    assert _ASKS.findall(code) == []


def test_a_loop_that_asks_is_known_when_seen():
    @njit(fastmath=True, error_model="numpy")
    def total_share(weight):
        share = np.empty(weight.shape[1], np.float32)
        total = np.float32(0)
        for i in range(weight.shape[0]):
            for m in range(weight.shape[1]):
                share[m] = weight[i, m]
                total += share[m]
        return total + share[0]

    assert total_share(np.ones((2, 40), np.float32)) == 81
    assert _ASKS.findall(total_share.inspect_llvm(total_share.signatures[0]))


def test_powers_and_ctfs_are_the_same_beside_each_other_and_far_apart(rng):
    """Of kernels that do ask: their arrays in one buffer, closer than a vector is long, and each on its own."""
    n_shells, n = 17, 3
    transform = (rng.normal(size=(n, 32, 17)) + 1j * rng.normal(size=(n, 32, 17))).astype(np.complex64)
    apart = np.empty((n, n_shells), np.float32)
    images.shell_power(transform, n_shells, apart)
    coefficients = rng.normal(size=(n, 5)).astype(np.float32)
    k = rng.normal(size=(2, 45)).astype(np.float32)
    step = np.full(n, 0.01, np.float32)
    ctf = np.empty((n, 45), np.float32)
    images.ctf_at_points(coefficients, k[0], k[1], step, ctf)
    for gap in range(1, 9):
        buffer = np.zeros(45 * 2 + n * 45 + 2 * gap, np.float32)
        kx, out, ky = buffer[:45], buffer[45 + gap : -45 - gap].reshape(n, 45), buffer[-45:]
        kx[:], ky[:] = k
        images.ctf_at_points(coefficients, kx, ky, step, out)
        np.testing.assert_array_equal(out, ctf)
        both = np.zeros(transform.size * 2 + gap + n * n_shells, np.float32)
        near = both[: transform.size * 2].view(np.complex64).reshape(transform.shape)
        near[:] = transform
        power = both[-n * n_shells :].reshape(n, n_shells)
        images.shell_power(near, n_shells, power)
        np.testing.assert_array_equal(power, apart)
