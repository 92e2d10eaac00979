import numpy as np
import pytest
import scipy.fft
from specimens import noisy_halves

from streamrecon.assess.conical import ConicalFsc, area_ratio, conical_fsc
from streamrecon.assess.masks import spherical_mask
from streamrecon.fourier.shells import fourier_shell_correlation, shell_index_rfft
from streamrecon.simulate.specimen import density_from_model

BOX, VOXEL = 48, 4.2


@pytest.fixture(scope="module")
def truth():
    return density_from_model(None, BOX, VOXEL)


def test_cones_of_a_right_angle_are_the_whole_shell(truth, rng):
    halves = noisy_halves(truth, 14, rng)
    found = conical_fsc(*halves, half_angle_degrees=90.1)
    a, b = (scipy.fft.rfftn(h) for h in halves)
    expected = fourier_shell_correlation(a, b, shell_index_rfft(BOX), BOX // 2 + 1)
    np.testing.assert_allclose(found.fsc[:, 1:], np.broadcast_to(expected[1:], found.fsc[:, 1:].shape), atol=1e-4)
    assert area_ratio(found) == pytest.approx(1, abs=1e-4)
    # axes: one of each pair, and they cover the sphere
    gram = np.abs(found.axis @ found.axis.T) - 2 * np.eye(len(found.axis))
    assert gram.max() < np.cos(np.deg2rad(5))
    assert gram.max(axis=1).min() > np.cos(np.deg2rad(20))


def missing_cone(halves, rng, weak):
    """Noise ``weak`` times stronger within 35 degrees of z."""
    k = np.fft.fftfreq(BOX)
    kz, ky, kx = np.meshgrid(k, k, np.fft.rfftfreq(BOX), indexing="ij")
    steep = np.abs(kz) > np.cos(np.deg2rad(35)) * np.sqrt(kx**2 + ky**2 + kz**2)
    sigma = 3 * halves[0].std()
    return [
        h + weak * scipy.fft.irfftn(scipy.fft.rfftn(sigma * rng.standard_normal(h.shape)) * steep, s=h.shape)
        for h in halves
    ]


def test_the_same_in_every_direction_is_near_one_and_a_poor_direction_is_seen(truth, rng):
    halves = noisy_halves(truth, 18, rng)
    mask = spherical_mask(BOX, 17, 4)
    even = area_ratio(conical_fsc(*halves, mask))
    found = conical_fsc(*missing_cone(halves, rng, 1.0), mask)
    uneven = area_ratio(found)
    assert even > 0.7
    assert uneven < even - 0.2
    # the poorest cone is the one along z
    poorest = found.axis[found.fsc[:, 3:15].mean(axis=1).argmin()]
    assert abs(poorest[2]) > np.cos(np.deg2rad(35))


def test_ratio_at_equal_counts_does_not_move_with_the_number_of_particles():
    """SSNR a N exp(-B k^2) in one direction, b N ... in the other: the curves grow with N, the ratio told does not."""
    shells = np.arange(60)

    def conical(n):
        ssnr = np.stack([strength * n * np.exp(-(shells**2) / 150) for strength in (0.02, 0.002)])
        return ConicalFsc(np.eye(3)[:2], (ssnr / (1 + ssnr)).astype(np.float32))

    raw = [area_ratio(conical(n)) for n in (5_000, 50_000, 500_000)]
    told = [area_ratio(conical(n), n) for n in (5_000, 50_000, 500_000)]
    assert raw[2] > raw[0] + 0.05
    np.testing.assert_allclose(told, raw[0], atol=0.01)
    assert area_ratio(ConicalFsc(np.eye(3), np.zeros((3, 20), np.float32))) is None
