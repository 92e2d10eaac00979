"""AdaGrad, TONGA and online EM on quadratics: first steps by hand, and what each is for."""

import numpy as np

from streamrecon.optimise.adagrad import AdaGrad
from streamrecon.optimise.online_em import OnlineEm
from streamrecon.optimise.tonga import Tonga
from tests.unit.optimise.quadratics import Quadratic, rotated

FOREVER = float("inf")


def test_the_first_steps_of_adagrad_by_hand():
    """H = diag(1, 4), minimum (2, 1), from 0: g = (-2, -4).

    eta is the root mean square of g, sqrt(10), over the mean curvature 2.5; the first step is eta times the gradient's
    signs, the second eta g / sqrt(g1^2 + g^2).
    """
    f = Quadratic(np.diag([1.0, 4.0]), [2.0, 1.0])
    adagrad = AdaGrad(0.1)
    eta = 0.1 * np.sqrt(10.0) / 2.5
    first = adagrad.step(np.zeros(2), f)
    np.testing.assert_allclose(first, [eta, eta])
    g = np.array([eta - 2.0, 4.0 * (eta - 1.0)])
    np.testing.assert_allclose(adagrad.step(first, f), first - eta * g / np.sqrt(g**2 + np.array([4.0, 16.0])))


def test_adagrad_sees_to_each_shell_by_itself():
    """Two shells whose answers are a thousand times apart are both reached in as many steps."""
    f = Quadratic(np.diag([1.0, 2.0, 1.0, 2.0]), [1000.0, -700.0, 1.0, 0.7])
    f.shell = np.array([0, 0, 1, 1], np.int32)
    adagrad, volume = AdaGrad(1.0), np.zeros(4)
    for _ in range(60):
        volume = adagrad.step(volume, f)
    assert (np.abs(volume - f.minimum) < 1e-2 * np.abs(f.minimum)).all()


def test_adagrad_averages_noise(rng):
    """Steps fall as 1 / sqrt(t): so does the variance that they leave."""
    adagrad, volume, errors = AdaGrad(1.0), np.zeros(8), []
    for _ in range(3000):
        f = Quadratic(np.diag(np.linspace(1, 8, 8)), np.ones(8), offset=rng.normal(size=8))
        volume = adagrad.step(volume, f)
        errors.append(((volume - 1.0) ** 2).mean())
    assert np.mean(errors[-500:]) < 0.4 * np.mean(errors[200:700])


def test_the_first_step_of_tonga_by_hand():
    """One gradient g: C = g g^T, lambda = |g|^2, so the direction is g / 2, and 1 / epsilon g.Hg / 2 / |g|^2."""
    f = Quadratic(np.diag([1.0, 4.0]), [2.0, 1.0])
    tonga = Tonga(0.5, FOREVER, regularisation=1.0)
    g = np.array([-2.0, -4.0])
    curvature = (g / 2) @ f.hessian @ (g / 2) / (g / 2 @ g)
    np.testing.assert_allclose(tonga.step(np.zeros(2), f), -0.5 / curvature * g / 2)
    assert np.isclose(curvature, 0.25 * (4 + 64) / 10)


def test_tonga_damps_the_directions_that_gradients_share(rng):
    """lambda (C + lambda)^-1 g against the matrix in full, through an eigendecomposition that keeps all there is."""
    n, kept = 6, []
    tonga = Tonga(0.5, FOREVER, rank=6, window=3, forgetting=0.9, regularisation=0.5)
    covariance = np.zeros((n, n))
    for _ in range(20):
        g = rng.normal(size=n) * np.array([5, 1, 1, 1, 1, 1.0])
        columns = len(tonga._memory.get("columns", [])) + 1
        covariance = 0.9 * covariance + np.outer(g, g)
        floor = 0.5 * np.trace(covariance) / columns
        expected = floor * np.linalg.solve(covariance + floor * np.eye(n), g)
        found = tonga._natural(g)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
        kept.append(abs(found[0] / g[0]) / np.median(np.abs(found[1:] / g[1:])))
    assert np.median(kept[5:]) < 0.5
    assert max(len(tonga._memory["columns"]), 1) <= 9


def test_tonga_reaches_the_minimum(rng):
    f = Quadratic(rotated(np.geomspace(1.0, 50.0, 12)), rng.normal(size=12))
    tonga, volume = Tonga(0.5, FOREVER), np.zeros(12)
    for _ in range(300):
        volume = tonga.step(volume, f)
    assert np.linalg.norm(volume - f.minimum) < 1e-3 * np.linalg.norm(f.minimum)


def test_online_em_is_the_running_sums(rng):
    """On diagonal quadratics: v = b / a with a <- (1 - rho) a + h, b <- (1 - rho) b + h m."""
    em, volume = OnlineEm(0.2, FOREVER), rng.normal(size=5)
    a, b = np.zeros(5), np.zeros(5)
    for _ in range(12):
        h, m = rng.uniform(0.5, 2.0, 5), rng.normal(size=5)
        a, b = 0.8 * a + h, 0.8 * b + h * m
        volume = em.step(volume, Quadratic(np.diag(h), m))
        np.testing.assert_allclose(volume, b / a, rtol=1e-10)
