import math

import numpy as np
import pytest

from streamrecon.assess.forecast import fit_rosenthal_henderson, forecast

B, START = 120.0, 1 / 12.0**2 - 2 / 120.0 * math.log(1000)  # 12 A with 1,000 particles
N = [1000, 1500, 2200, 3500, 5000, 8000]


def resolution(n, b=B):
    return 1 / math.sqrt(START + 2 / b * math.log(n))


def exact():
    return fit_rosenthal_henderson(N, [resolution(n) for n in N])


def test_points_on_a_line_give_the_line_back():
    fit = exact()
    assert fit.b_factor_angstrom2 == pytest.approx(B)
    assert fit.b_factor_interval_angstrom2 == pytest.approx((B, B), rel=1e-6)
    for d in (6.0, 4.0):
        expected = math.exp((1 / d**2 - START) * B / 2)
        assert fit.particles_for(d) == pytest.approx((expected,) * 3, rel=1e-6)


def test_hours_follow_from_the_rate_and_what_is_there_already():
    one = forecast(exact(), 4.0, 8000, 3600.0)
    expected = math.exp((1 / 16 - START) * B / 2)
    assert one.particles == pytest.approx(expected)
    assert one.hours == pytest.approx((expected - 8000) / 3600)
    assert forecast(exact(), 20.0, 8000, 3600.0).hours == 0
    unknown = forecast(exact(), 5.0, 8000, None)
    assert (unknown.hours, unknown.hours_low) == (None, None)
    assert forecast(exact(), 0.5, 8000, 3600.0).particles is None


def test_the_interval_holds_the_truth_as_often_as_it_says(rng):
    """Noise on 1 / d^2, many times: 90 % intervals of B and of N hold the truth in about 90 %."""
    n = np.array([1000 * 1.25**i for i in range(12)])
    true = START + 2 / B * np.log(n)
    truth = (1 / 9.0**2 - START) * B / 2
    held = [0, 0]
    trials = 600
    for _ in range(trials):
        noisy = true + 4e-4 * rng.standard_normal(len(n))
        fit = fit_rosenthal_henderson(n, 1 / np.sqrt(noisy))
        low, high = fit.b_factor_interval_angstrom2
        held[0] += low <= B <= high
        _, low, high = fit.particles_for(9.0)
        held[1] += math.log(low) <= truth <= math.log(high)
    assert 0.86 < held[0] / trials < 0.94
    assert 0.86 < held[1] / trials < 0.94


def test_an_uncertain_slope_leaves_the_interval_open(rng):
    n = np.array([1000 * 1.2**i for i in range(6)])
    y = START + 2 / B * np.log(n) + np.array([4, -6, 5, -5, 6, -3]) * 1.2e-3
    fit = fit_rosenthal_henderson(n, 1 / np.sqrt(y))
    assert fit.b_factor_interval_angstrom2[1] == math.inf
    best, low, high = fit.particles_for(8.0)
    assert low <= best < high == math.inf
    assert forecast(fit, 8.0, 2000, 100.0).hours_high is None


@pytest.mark.parametrize(
    ("n", "d"),
    [
        (N[:4], [resolution(x) for x in N[:4]]),
        ([1000, 1160, 1350, 1570, 1790], [10, 9.8, 9.6, 9.4, 9.3]),
        (N, [8.0, 8.1, 8.2, 8.3, 8.4, 8.5]),
        (N, [math.inf] * 6),
    ],
    ids=["few", "narrow", "worse", "infinite"],
)
def test_what_tells_nothing_gives_nothing(n, d):
    assert fit_rosenthal_henderson(n, d) is None


def test_points_that_share_their_particles_count_once():
    dense = np.linspace(1000, 8000, 300)
    fit = fit_rosenthal_henderson(dense, [resolution(x) for x in dense])
    assert fit.points <= 17
    assert fit.b_factor_angstrom2 == pytest.approx(B)
