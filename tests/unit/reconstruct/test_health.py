"""Junk, inliers and amplitudes, each where the answer is known."""

import numpy as np
import pytest

from streamrecon.reconstruct.envelope import GroupEnvelope
from streamrecon.reconstruct.health import Health, junk_log_evidence

COUNTS = np.array([0, 4, 8, 12, 18, 24, 30])


def powers(rng, n, spectrum, fill=0.5):
    """Mean power of complex Gaussian points, fewer of them independent for the mask."""
    independent = np.maximum(fill * COUNTS, 1.0)
    return fill * spectrum * rng.gamma(independent, 1.0 / independent, (n, len(COUNTS)))


def test_plain_noise_is_hardly_junk_and_a_spectrum_of_its_own_is(rng):
    flat, steep = np.ones(7), np.array([1, 9, 4, 2, 1, 1, 1.0])
    noise = np.ones((500, 7))
    plain = junk_log_evidence(powers(rng, 500, flat), noise, COUNTS, 0.5)
    junk = junk_log_evidence(powers(rng, 500, steep), noise, COUNTS, 0.5)
    assert plain.min() >= 0
    assert plain.mean() < 1.5
    assert np.median(junk) > 10
    # the closed form at one power: n (r - 1 - log r) - log(n) / 2
    one = junk_log_evidence(np.full((1, 7), 0.5 * 3.0), noise[:1], COUNTS, 0.5)
    n = 0.5 * COUNTS[1:]
    assert one[0] == pytest.approx((n * (2 - np.log(3)) - 0.5 * np.log(n)).sum())


def test_the_share_of_inliers_is_found(rng):
    """70 % particles of evidence 40 +- 15, 30 % junk of -2 +- 2: the probabilities tell them apart."""
    health = Health()
    for _ in range(60):
        good = rng.random(100) < 0.7
        evidence = np.where(good, rng.normal(40, 15, 100), rng.normal(-4, 1.0, 100))
        inlier = health.inlier_probability(evidence, np.zeros(100))
    assert health.share == pytest.approx(0.7, abs=0.05)
    assert inlier[good].mean() > 0.97
    assert inlier[~good].mean() < 0.1
    assert inlier.min() > 0
    assert inlier.max() <= 1  # no hard cut


def test_groups_are_reported_by_name_and_particles_counted_once(rng):
    health = Health()
    group = np.array([0, 0, 2])
    health.update(group, np.array([1.0, 3.0, 7.0]), np.ones(3), np.array([1.0, 0.5, 0.0]), new=True)
    health.update(group, np.array([1.0, 3.0, 7.0]), np.ones(3), np.array([1.0, 0.5, 0.0]), new=False)
    first, third = health.groups(["a", "b", "c"], np.array([1.0, 1.0, 0.7]), np.array([0.0, 0.0, 40.0]), judged=True)
    assert (first.name, first.particles, first.mean_log_evidence, first.inlier_share) == ("a", 2, 2.0, 0.75)
    assert (third.name, third.particles, third.amplitude_scale) == ("c", 1, 0.7)
    assert third.b_factor_angstrom2 == 40.0
    assert health.groups(["a", "b", "c"], np.ones(3), np.zeros(3), judged=False)[0].inlier_share is None
    again = Health()
    again.restore(*health.state())
    assert again.groups(["a", "b", "c"], np.array([1, 1, 0.7]), np.array([0, 0, 40.0]), judged=True) == (first, third)


STEP, SHELLS = 1 / 200.0, 24


def learnt(true, b_factor, rng, *, images=4000, bias=0.6):
    """Feed groups of true amplitudes and B-factors, all images biased alike."""
    envelope = GroupEnvelope(STEP, SHELLS)
    envelope.add_groups(len(true))
    x = (np.arange(SHELLS) * STEP) ** 2 / 4
    for _ in range(images // 100):
        group = rng.integers(0, len(true), 100)
        power = rng.gamma(4.0, 3.0, (100, SHELLS)) * np.exp(-np.arange(SHELLS) / 8)
        factor = bias * true[group][:, None] * np.exp(-b_factor[group][:, None] * x)
        envelope.update(group, factor * power + rng.normal(0, 1, power.shape) * np.sqrt(power), power)
    return envelope


def test_amplitudes_are_relative_and_a_bias_of_all_falls_out(rng):
    """Least squares with a common bias of 0.6: only the ratio of the groups is left."""
    envelope = learnt(np.array([1.0, 0.7]), np.zeros(2), rng)
    found = envelope.scale
    assert found[1] / found[0] == pytest.approx(0.7, rel=0.03)
    assert envelope.b_factor.max() < 15.0
    envelope.add_groups(3)
    assert envelope.scale[2] == 1.0  # nothing known
    one = GroupEnvelope(STEP, SHELLS)
    one.add_groups(1)
    one.update(np.zeros(5, int), np.full((5, 4), 9.0), np.ones((5, 4)))
    assert one.scale.tolist() == [1.0]
    assert one.b_factor.tolist() == [0.0]


def test_b_factors_are_told_over_the_sharpest_group(rng):
    """Slopes of three groups, the blur that all share left out; amplitudes are those at s = 0."""
    true, b_factor = np.array([1.0, 0.8, 1.2]), np.array([90.0, 20.0, 180.0])
    envelope = learnt(true, b_factor, rng, images=6000)
    np.testing.assert_allclose(envelope.b_factor, b_factor - 20.0, atol=15.0)
    found = envelope.scale
    np.testing.assert_allclose(found / found[1], true / true[1], rtol=0.04)
    again = GroupEnvelope(STEP, SHELLS)
    again.restore(envelope.state())
    assert np.array_equal(again.b_factor, envelope.b_factor)


def test_few_images_say_little_of_a_group(rng):
    """A group of 30 noisy images next to one of thousands is taken for average."""
    envelope = learnt(np.array([1.0]), np.zeros(1), rng)
    envelope.add_groups(2)
    power = np.full((30, SHELLS), 1e-3)
    envelope.update(np.ones(30, int), power + rng.normal(0, 0.03, power.shape), power)
    assert envelope.b_factor[1] < 60.0
