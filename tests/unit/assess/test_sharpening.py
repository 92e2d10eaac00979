import numpy as np
import pytest
import scipy.fft
from specimens import noisy_halves

from streamrecon.assess.sharpening import filter_undone, fsc_weight, guinier_fit, sharpened_map
from streamrecon.fourier.shells import shell_index_rfft
from streamrecon.simulate.specimen import density_from_model

BOX, VOXEL = 64, 2.0
LENGTH = BOX * VOXEL
SHELLS = np.arange(BOX // 2 + 1)


def blurred(volume, b_factor):
    shell = shell_index_rfft(len(volume))
    k = np.fft.fftfreq(len(volume), 1 / len(volume))
    radius2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + np.arange(shell.shape[2]) ** 2
    return scipy.fft.irfftn(scipy.fft.rfftn(volume) * np.exp(-b_factor / 4 * radius2 / LENGTH**2), s=volume.shape)


def test_a_known_slope_comes_back():
    amplitude = 7 * np.exp(-180 / 4 * (SHELLS / LENGTH) ** 2)
    fit = guinier_fit(amplitude, BOX, VOXEL)
    assert fit.b_factor_angstrom2 == pytest.approx(-180)
    assert np.exp(fit.intercept) == pytest.approx(7)
    assert fit.correlation == pytest.approx(-1)


def test_the_fit_looks_only_where_it_is_told_to():
    amplitude = np.exp(-180 / 4 * (SHELLS / LENGTH) ** 2)
    amplitude[SHELLS < 13] = 1e6  # coarser than 10 A
    amplitude[30:] = 0
    assert guinier_fit(amplitude, BOX, VOXEL).b_factor_angstrom2 == pytest.approx(-180)
    assert guinier_fit(amplitude, BOX, VOXEL).points == 17
    assert guinier_fit(amplitude, BOX, VOXEL, from_angstrom=5.0).points == 30 - 26
    assert guinier_fit(amplitude, BOX, VOXEL, from_angstrom=4.4) is None


def test_more_blur_is_found_as_more_blur():
    """White Gaussian points have a flat spectrum: the B-factor put in is the one found."""
    volume = np.random.default_rng(0).standard_normal((BOX,) * 3)
    for b in (100, 250):
        volume_b = blurred(volume, b)
        found = sharpened_map(volume_b, volume_b, VOXEL, np.ones(BOX // 2 + 1), 2 * VOXEL)
        assert found.fit.b_factor_angstrom2 == pytest.approx(-b, abs=6)
        sharp = found.sharpened[13:32]
        assert sharp.max() / sharp.min() < 1.15


def test_a_map_that_ends_near_ten_angstrom_is_not_fitted_to_its_noise(rng):
    volume = blurred(rng.standard_normal((BOX,) * 3), 150)
    fsc = np.ones(33)
    assert sharpened_map(volume, volume, VOXEL, fsc, LENGTH / 16).fit is not None
    coarse = sharpened_map(volume, volume, VOXEL, fsc, LENGTH / 15)
    assert coarse.fit is None
    assert coarse.b_factor_angstrom2 == 0


def test_weight_is_rosenthals_and_ends_at_the_first_shell_without_signal():
    weight = fsc_weight(np.array([1, 1, 0.5, 0.143, 0.0, 0.4]))
    np.testing.assert_allclose(weight, [1, 1, np.sqrt(2 / 3), np.sqrt(0.286 / 1.143), 0, 0])


def test_sharpening_brings_a_noisy_map_nearer_the_sharp_truth(rng):
    truth = density_from_model(None, BOX, 3.3, b_factor=60)
    sharp = density_from_model(None, BOX, 3.3, b_factor=0.1)
    halves = noisy_halves(truth, 24, rng)
    fsc = np.interp(SHELLS, [0, 10, 24, 32], [1, 0.97, 0.143, 0.0])
    found = sharpened_map(*halves, 3.3, fsc, BOX * 3.3 / 24, b_factor_angstrom2=-60)
    plain = (halves[0] + halves[1]) / 2
    correlation = [np.corrcoef(v.ravel(), sharp.ravel())[0, 1] for v in (found.volume, plain)]
    assert correlation[0] > correlation[1] + 0.02
    assert found.b_factor_angstrom2 == -60


def test_the_engines_own_filter_is_undone(rng):
    volume = blurred(rng.standard_normal((BOX,) * 3), 150)
    fsc = np.clip(1.1 - SHELLS / 28, 0, 0.99)
    filtered = scipy.fft.irfftn(scipy.fft.rfftn(volume) * np.append(fsc, 0)[np.minimum(shell_index_rfft(BOX), 33)])
    found = sharpened_map(filtered, filtered, VOXEL, np.ones(33), 2 * VOXEL, shell_gain=filter_undone(fsc))
    reference = sharpened_map(volume, volume, VOXEL, np.ones(33), 2 * VOXEL)
    held = fsc >= 0.02
    np.testing.assert_allclose(found.amplitude[held], reference.amplitude[held], rtol=1e-4)
    assert filter_undone(fsc)[-1] == 0
