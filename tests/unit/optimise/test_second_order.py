"""Online L-BFGS and Hessian-free optimisation on quadratics: Newton's answer, and what keeps noise out."""

import numpy as np
import pytest

from streamrecon.optimise.hessian_free import HessianFree, _conjugate_gradients
from streamrecon.optimise.olbfgs import OnlineLbfgs, _direction
from tests.unit.optimise.quadratics import Quadratic, rotated

FOREVER = float("inf")


@pytest.fixture
def quadratic(rng):
    return Quadratic(rotated(np.geomspace(1.0, 50.0, 12)), rng.normal(size=12))


def test_the_direction_is_bfgs_with_all_its_matrices(rng):
    """Against the update of the inverse Hessian in full, B <- (I - r s y^T) B (I - r y s^T) + r s s^T, r = 1 / s.y."""
    hessian = rotated(np.geomspace(1.0, 9.0, 6))
    steps = rng.normal(size=(4, 6))
    differences = steps @ hessian
    scale = np.mean([s @ y / (y @ y) for s, y in zip(steps, differences, strict=True)])
    inverse = scale * np.eye(6)
    for s, y in zip(steps, differences, strict=True):
        left = np.eye(6) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    g = rng.normal(size=6)
    np.testing.assert_allclose(_direction(g, steps, differences), inverse @ g, rtol=1e-9)


def test_the_first_steps_of_online_lbfgs_by_hand():
    """H = diag(1, 4), minimum (2, 1), from 0: first -0.5 / 4 g, then -0.5 B g."""
    f = Quadratic(np.diag([1.0, 4.0]), [2.0, 1.0])
    lbfgs = OnlineLbfgs(0.5, FOREVER, trust=0.0)
    first = lbfgs.step(np.zeros(2), f)
    np.testing.assert_allclose(first, [0.25, 0.5])
    s, y = np.array([0.25, 0.5]), np.array([0.25, 2.0])
    left = np.eye(2) - np.outer(s, y) / (s @ y)
    inverse = (s @ y) / (y @ y) * left @ left.T + np.outer(s, s) / (s @ y)
    g = f.hessian @ (first - f.minimum)
    np.testing.assert_allclose(lbfgs.step(first, f), first - 0.5 * inverse @ g)


def test_online_lbfgs_is_faster_than_the_condition_number(quadratic):
    lbfgs, volume = OnlineLbfgs(1.0, FOREVER, trust=0.0), np.zeros(12)
    for _ in range(60):
        volume = lbfgs.step(volume, quadratic)
    # gradient descent would have 0.98^60 = 0.3 of the way left
    assert np.linalg.norm(volume - quadratic.minimum) < 1e-6 * np.linalg.norm(quadratic.minimum)


def test_steps_never_go_beyond_their_own_mini_batch(rng):
    """A memory of low curvature proposes a long step; the mini-batch's own curvature cuts it at its minimum."""
    lbfgs = OnlineLbfgs(1.0, FOREVER)
    flat, steep = Quadratic(0.01 * np.eye(4), np.ones(4)), Quadratic(100.0 * np.eye(4), np.ones(4))
    volume = lbfgs.step(np.zeros(4), flat)
    there = lbfgs.step(np.zeros(4), steep)
    assert steep.value(there) <= steep.value(np.zeros(4))
    np.testing.assert_allclose(there, steep.minimum, rtol=1e-6)
    assert np.isfinite(volume).all()


def test_pairs_that_show_no_curvature_are_not_remembered():
    lbfgs = OnlineLbfgs(0.5, FOREVER, trust=0.0)
    f = Quadratic(np.diag([1.0, 1e-9]), [0.0, 1.0])  # the gradient lies along the flat direction
    lbfgs.step(np.zeros(2), f)
    assert "steps" not in lbfgs.state()[0]
    lbfgs.step(np.zeros(2), Quadratic(np.diag([1.0, 1.0]), [1.0, 1.0]))
    assert len(lbfgs.state()[0]["steps"]) == 1


def test_conjugate_gradients_solve_the_damped_system(quadratic, rng):
    g = quadratic.gradient(np.zeros(12))
    found = _conjugate_gradients(quadratic, g, np.zeros(12), damping=0.3)
    expected = np.linalg.solve(quadratic.hessian + 0.3 * np.eye(12), -g)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2 * np.abs(expected).max())
    # from a start that is worse than nothing, all the same
    again = _conjugate_gradients(quadratic, g, 100 * rng.normal(size=12), damping=0.3)
    np.testing.assert_allclose(again, expected, rtol=2e-2, atol=2e-2 * np.abs(expected).max())


def test_conjugate_gradients_stop_when_iterations_do_not_pay():
    """Two hundred curvatures over three decades: to solve for the smallest gains nothing, and is not tried."""
    f = Quadratic(rotated(np.geomspace(1e-3, 1.0, 200)), np.ones(200))
    g = f.gradient(np.zeros(200))
    found = _conjugate_gradients(f, g, np.zeros(200), damping=1e-3)
    assert 10 < f.products < 25
    best = np.linalg.solve(f.hessian + 1e-3 * np.eye(200), -g)
    gained = [0.5 * d @ (f.hessian @ d + 1e-3 * d) + g @ d for d in (found, best)]
    assert gained[0] < 0.995 * gained[1]  # both are negative: all but half a percent
    assert np.linalg.norm(found - best) > 0.1 * np.linalg.norm(best)


def test_without_noise_damping_vanishes_and_steps_are_newtons(quadratic):
    method, volume, steps = HessianFree(1.0), np.zeros(12), []
    for _ in range(25):
        volume = method.step(volume, quadratic)
        steps.append(method.step_size)
    assert np.linalg.norm(volume - quadratic.minimum) < 1e-6 * np.linalg.norm(quadratic.minimum)
    assert steps[10] > 10 * steps[0]


def test_the_damping_follows_the_rule_by_hand():
    """One coordinate of curvature 1, lambda = 1: from 0 to 0.5 with the minimum at 1.

    The next mini-batch says that d = 0.5 should have been 1 (rho = 2: lambda falls by 2/3), or, with its minimum at
    0.25, that 0.25 would have done (rho = 1/2: it grows by 3/2), or at 0.5 that it was right.
    """
    for minimum, factor in ((1.0, 2 / 3), (0.25, 3 / 2), (0.5, 1.0)):
        method = HessianFree(1.0)
        volume = method.step(np.zeros(1), Quadratic(np.eye(1), [1.0]))
        np.testing.assert_allclose(volume, 0.5)
        method.step(volume, Quadratic(np.eye(1), [minimum]))
        assert np.isclose(1.0 / method.step_size, factor)


def test_noise_raises_the_damping_until_steps_average(rng):
    """Near the minimum what mini-batches disagree on is not followed."""
    method, volume, errors = HessianFree(1.0), np.zeros(40), []
    hessian, minimum = np.diag(np.geomspace(1.0, 10.0, 40)), np.ones(40)
    for _ in range(300):
        f = Quadratic(hessian, minimum, offset=2.0 * rng.normal(size=40))
        volume = method.step(volume, f)
        errors.append(np.linalg.norm(volume - minimum))
    newton = np.linalg.norm(2.0 / np.diag(hessian))  # what undamped steps would leave
    assert np.mean(errors[-100:]) < 0.4 * newton
    assert 1.0 / method.step_size > 10.0
