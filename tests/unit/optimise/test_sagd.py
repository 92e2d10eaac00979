"""SAGD: the table of gradients, the search for the Lipschitz constant, and what both are for."""

import numpy as np

from streamrecon.optimise.sagd import Sagd
from tests.unit.optimise.quadratics import Quadratic, rotated

FOREVER = float("inf")


def test_steps_go_along_the_mean_of_the_latest_gradients_of_all():
    """By hand: two mini-batches of curvature 1 with minima 1 and 3, L = 1 or a little above."""
    one, two = Quadratic(np.eye(1), [1.0], batch=0), Quadratic(np.eye(1), [3.0], batch=1)
    sagd = Sagd(0.25, FOREVER)
    volume = sagd.step(np.zeros(1), one)  # d_0 = -1
    np.testing.assert_allclose(volume, sagd.step_size * 1.0)
    second = sagd.step(volume, two)  # d_1 = volume - 3, d_0 = -1 as it was
    np.testing.assert_allclose(second, volume + sagd.step_size * (1.0 + 3.0 - volume) / 2)
    third = sagd.step(second, one)  # d_0 anew
    np.testing.assert_allclose(third, second + sagd.step_size * (1.0 - second + 3.0 - volume) / 2)


def test_the_lipschitz_constant_is_found_and_relaxed(rng):
    """Doubled until it holds along the gradient, then down by 2^(-1/150) a mini-batch."""
    f = Quadratic(8.0 * np.eye(3), np.ones(3))
    sagd = Sagd(1.0, FOREVER)
    sagd.step(np.zeros(3), f)
    first = 1.0 / sagd.step_size
    assert 8.0 <= first < 16.0
    flat = Quadratic(1e-6 * np.eye(3), np.ones(3))
    for _ in range(150):
        sagd.step(np.zeros(3), flat)
    assert np.isclose(1.0 / sagd.step_size, first / 2, rtol=1e-6)


def test_a_finite_set_gone_through_again_is_solved_exactly(rng):
    """Where plain stochastic descent stays as noisy as its steps are long (Le Roux et al. 2012, their point)."""
    hessian = rotated(np.linspace(1.0, 4.0, 5))
    minima = rng.normal(size=(6, 5))
    batches = [Quadratic(hessian, m, batch=k) for k, m in enumerate(minima)]
    sagd, volume = Sagd(1.0 / 4.0, FOREVER), np.zeros(5)
    for t in range(900):
        volume = sagd.step(volume, batches[int(rng.integers(6)) if t >= 6 else t])
    assert np.linalg.norm(volume - minima.mean(axis=0)) < 1e-4


def test_a_stream_keeps_so_many_gradients_and_no_more(rng):
    sagd, volume = Sagd(0.25, FOREVER, slots=4), np.zeros(3)
    errors = []
    for _ in range(400):
        f = Quadratic(np.diag([1.0, 2.0, 4.0]), np.ones(3), offset=0.3 * rng.normal(size=3))
        volume = sagd.step(volume, f)
        errors.append(np.linalg.norm(volume - 1.0))
    assert sagd.state()[0]["table"].shape == (4, 3)
    assert np.mean(errors[200:]) < 0.3


def test_a_wider_band_makes_room_in_the_table():
    sagd = Sagd(0.25, FOREVER)
    sagd.step(np.zeros(2), Quadratic(np.eye(2), np.ones(2)))
    found = sagd.step(np.zeros(3), Quadratic(np.eye(3), np.ones(3)))
    assert sagd.state()[0]["table"].shape == (2, 3)
    np.testing.assert_allclose(found, sagd.step_size * np.array([1.0, 1.0, 0.5]))
