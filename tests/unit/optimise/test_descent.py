"""Gradient descent, momentum and Nesterov's gradient on quadratics: first steps by hand, rates by theory."""

import numpy as np
import pytest

from streamrecon.optimise.methods import make_optimiser
from streamrecon.optimise.momentum import Momentum, Nesterov
from streamrecon.optimise.sgd import Sgd
from tests.unit.optimise.quadratics import Quadratic, rotated

FOREVER = float("inf")


def test_the_first_steps_of_gradient_descent_by_hand():
    """H = diag(1, 4), minimum (2, 1), from 0: g = (-2, -4), epsilon = 0.5 / 4."""
    sgd = Sgd(0.5, FOREVER)
    f = Quadratic(np.diag([1.0, 4.0]), [2.0, 1.0])
    first = sgd.step(np.zeros(2), f)
    np.testing.assert_allclose(first, [0.25, 0.5])
    assert sgd.step_size == 0.125
    # g = (-1.75, -2)
    np.testing.assert_allclose(sgd.step(first, f), [0.46875, 0.75])


def test_the_first_steps_of_momentum_by_hand():
    """u1 = -0.125 g(0) = (0.25, 0.5); u2 = 0.5 u1 - 0.125 (-1.75, -2) = (0.34375, 0.5)."""
    momentum = Momentum(0.5, FOREVER, momentum=0.5)
    f = Quadratic(np.diag([1.0, 4.0]), [2.0, 1.0])
    first = momentum.step(np.zeros(2), f)
    np.testing.assert_allclose(first, [0.25, 0.5])
    np.testing.assert_allclose(momentum.step(first, f), [0.59375, 1.0])


def test_the_first_steps_of_nesterov_by_hand():
    """The second gradient is that at v + 0.5 u = (0.375, 0.75), (-1.625, -1): u2 = (0.125, 0.25) - 0.125 of it."""
    nesterov = Nesterov(0.5, FOREVER, momentum=0.5)
    f = Quadratic(np.diag([1.0, 4.0]), [2.0, 1.0])
    first = nesterov.step(np.zeros(2), f)
    np.testing.assert_allclose(first, [0.25, 0.5])
    np.testing.assert_allclose(nesterov.step(first, f), [0.578125, 0.875])


@pytest.mark.parametrize(
    ("optimiser", "rate"),
    [
        # 1 - 1 / kappa a step
        (Sgd(1.0, FOREVER), 1 - 1 / 50),
        # the heavy ball at its own rate, sqrt(mu), once mu is past (1 - sqrt(epsilon h))^2 for every curvature h
        (Momentum(1.0, FOREVER, momentum=0.8), np.sqrt(0.8)),
        # Nesterov: of a curvature h the roots of z^2 = (1 - epsilon h) ((1 + mu) z - mu); the slowest is h = L / 50
        (Nesterov(1.0, FOREVER, momentum=0.8), np.abs(np.roots([1, -0.98 * 1.8, 0.98 * 0.8])).max()),
    ],
)
def test_the_minimum_is_reached_at_the_rate_of_the_theory(rng, optimiser, rate):
    f = Quadratic(rotated(np.linspace(1.0, 50.0, 12)), rng.normal(size=12))
    volume, errors = np.zeros(12), []
    for _ in range(180):
        volume = optimiser.step(volume, f)
        errors.append(np.linalg.norm(volume - f.minimum))
    assert errors[-1] < 0.05 * errors[0]
    found = (errors[-1] / errors[79]) ** (1 / 100)
    assert np.isclose(found, rate, atol=6e-3)


def test_falling_steps_average_the_noise_of_mini_batches(rng):
    """Steps that fall like 1/t leave sigma / sqrt(t); constant ones leave what their own noise is."""
    hessian, minimum = np.diag([1.0, 1.0]), np.array([3.0, -2.0])
    falling, constant = Sgd(0.5, 1000.0), Sgd(0.5, FOREVER)
    errors = {"falling": [], "constant": []}
    a = b = np.zeros(2)
    for t in range(4000):
        f = Quadratic(hessian, minimum, offset=rng.normal(size=2))
        a, b = falling.step(a, f), constant.step(b, f)
        if t >= 3000:
            errors["falling"].append(np.linalg.norm(a - minimum))
            errors["constant"].append(np.linalg.norm(b - minimum))
    assert np.mean(errors["falling"]) < 0.2 * np.mean(errors["constant"])


def test_smaller_mini_batches_make_shorter_steps():
    """Half as many images, half the step; twice as many, no longer one: 1 is the longest that is safe."""
    for images, expected in ((25, 0.25), (50, 0.5), (100, 0.5)):
        sgd = Sgd(0.5, FOREVER)
        sgd.step(np.zeros(1), Quadratic(np.eye(1), [1.0], images=images))
        assert np.isclose(sgd.step_size, expected)


def test_a_wider_band_keeps_what_was_remembered():
    """Two coordinates more start at rest; the old ones go on as if nothing had happened."""
    narrow, wide = Momentum(0.5, FOREVER), Momentum(0.5, FOREVER)
    small = Quadratic(np.diag([1.0, 4.0]), [2.0, 1.0])
    large = Quadratic(np.diag([1.0, 4.0, 2.0, 2.0]), [2.0, 1.0, 5.0, 5.0])
    first = narrow.step(np.zeros(2), small)
    wide.step(np.zeros(2), small)
    expected = narrow.step(first, small)
    found = wide.step(np.concatenate([first, np.zeros(2)]), large)
    np.testing.assert_allclose(found[:2], expected)
    np.testing.assert_allclose(found[2:], 0.125 * 2.0 * 5.0)
    assert len(wide.step(found[:2], small)) == 2  # and back


def test_unknown_methods_are_refused_by_name():
    with pytest.raises(ValueError, match=r"newton.*expected one of online_em, sgd, momentum"):
        make_optimiser("newton")
