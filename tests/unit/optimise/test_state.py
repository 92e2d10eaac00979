"""What every method has to keep: its state goes through a checkpoint and comes back, bit for bit, at any band."""

import json

import numpy as np
import pytest

from streamrecon.optimise.interface import fitted
from streamrecon.optimise.methods import METHODS, make_optimiser
from tests.unit.optimise.quadratics import Quadratic, rotated


def batches(n, count, seed):
    rng = np.random.default_rng(seed)
    for number in range(count):
        f = Quadratic(rotated(np.geomspace(1.0, 20.0, n)), np.ones(n), images=100, offset=0.2 * rng.normal(size=n))
        f.batch = -1 if number % 2 else number
        yield f


def run(optimiser, volume, closures):
    for f in closures:
        before = volume.copy()
        new = optimiser.step(volume, f)
        assert new.dtype == volume.dtype == np.float32
        assert np.array_equal(before, volume)  # what was given stays as it is
        volume = new
    return volume


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_optimiser_goes_on_bit_for_bit(name):
    whole, first = make_optimiser(name), make_optimiser(name)
    start = np.zeros(8, np.float32)
    one = run(whole, start, batches(8, 20, 1))
    other = run(first, start, batches(8, 20, 1))
    arrays, scalars = first.state()
    saved = {key: np.array(array) for key, array in arrays.items()}
    read = json.loads(json.dumps(scalars))
    resumed = make_optimiser(name)
    resumed.restore(saved, read)
    run(first, other, batches(8, 3, 9))  # going on does not change what was taken
    # the band grows, and shrinks, after the resumption
    for n in (12, 10):
        one, other = fitted(one, n), fitted(other, n)
        one, other = run(whole, one, batches(n, 5, n)), run(resumed, other, batches(n, 5, n))
        assert np.array_equal(one, other)
        assert whole.step_size == resumed.step_size
    assert resumed.name == name


@pytest.mark.parametrize("name", METHODS)
def test_a_reset_optimiser_is_a_fresh_one(name):
    used = make_optimiser(name)
    run(used, np.zeros(6, np.float32), batches(6, 7, 3))
    used.reset()
    start = np.ones(6, np.float32)
    fresh = run(make_optimiser(name), start, batches(6, 7, 4))
    assert np.array_equal(run(used, start, batches(6, 7, 4)), fresh)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_reaches_a_minimum_untuned(name):
    """At the step sizes of the table, in single precision, without noise."""
    f = Quadratic(rotated(np.geomspace(1.0, 20.0, 8)), np.ones(8))
    volume, optimiser = np.zeros(8, np.float32), make_optimiser(name)
    for _ in range(400):
        volume = optimiser.step(volume, f)
    assert np.linalg.norm(volume - 1.0) < 0.02 * np.sqrt(8)
