import numpy as np
import pytest
import scipy.fft
from specimens import noisy_halves

from streamrecon.assess.align import fsc_between
from streamrecon.assess.fsc_curves import CRYOSPARC_RANDOMISE_BELOW, corrected_fsc, fsc_curves
from streamrecon.assess.masks import automatic_mask, spherical_mask
from streamrecon.fourier.shells import shell_index_rfft
from streamrecon.simulate.specimen import density_from_model

BOX, VOXEL = 64, 3.3


@pytest.fixture(scope="module")
def truth():
    return density_from_model(None, BOX, VOXEL)


def test_corrected_curve_tells_what_a_noise_free_reference_tells(truth, rng):
    """For white noise the expected masked FSC of halves follows from the masked truth and the noise under the mask."""
    halves = noisy_halves(truth, 20, rng)
    mask = automatic_mask(*halves, VOXEL)
    curves = fsc_curves(*halves, VOXEL, mask)
    against_truth = fsc_between((halves[0] + halves[1]) / 2, truth, VOXEL, mask).fsc
    # the mean of both halves correlates with the truth as sqrt(2 FSC / (1 + FSC))
    expected = against_truth**2 / (2 - against_truth**2)
    use = slice(3, 22)
    np.testing.assert_allclose(curves.corrected[use], expected[use], atol=0.08)
    assert curves.unmasked_resolution_angstrom > curves.resolution_angstrom()
    assert curves.resolution_angstrom(0.5) > curves.resolution_angstrom()


def test_a_mask_that_is_too_tight_is_caught(truth, rng):
    """Halves that share nothing beyond shell 7: under a tight, hard mask they seem to agree to Nyquist."""
    shell = shell_index_rfft(BOX)
    shared = scipy.fft.irfftn(scipy.fft.rfftn(truth) * (shell <= 7), s=truth.shape)
    halves = [shared + 0.25 * shared.std() * rng.standard_normal(shared.shape) for _ in range(2)]
    tight = (truth > 0.5 * truth.max()).astype(np.float32)
    caught = fsc_curves(*halves, VOXEL, tight)
    # true signal leaks over the border by the width of the mask's own transform
    beyond = slice(caught.randomised_from + 6, 32)
    assert caught.masked[beyond].min() > 0.4
    assert np.abs(caught.corrected[beyond]).max() < 0.3
    assert np.abs(caught.corrected[beyond]).mean() < 0.15
    assert caught.resolution_angstrom() > BOX * VOXEL / 12
    soft = fsc_curves(*halves, VOXEL, automatic_mask(*halves, VOXEL))
    assert np.abs(soft.masked[14:]).max() < 0.3


def test_randomising_keeps_amplitudes_and_what_lies_below(truth, rng):
    halves = noisy_halves(truth, 20, rng)
    everything = np.ones_like(truth)
    curves = fsc_curves(*halves, VOXEL, everything)
    start = curves.randomised_from
    np.testing.assert_allclose(curves.randomised[:start], curves.unmasked[:start], atol=1e-4)
    assert np.abs(curves.randomised[start + 1 :]).max() < 0.2
    assert curves.unmasked[start] < 0.8 <= curves.unmasked[start - 1]


def test_cryosparc_randomises_from_where_the_unmasked_curve_ends(truth, rng):
    halves = noisy_halves(truth, 18, rng)
    mask = spherical_mask(BOX, 22, 5)
    relion, cryosparc = (fsc_curves(*halves, VOXEL, mask, randomise_below=b) for b in (0.8, CRYOSPARC_RANDOMISE_BELOW))
    assert relion.randomised_from < cryosparc.randomised_from
    assert cryosparc.unmasked[cryosparc.randomised_from] < 0.143
    np.testing.assert_array_equal(relion.masked, cryosparc.masked)


def test_halves_that_never_part_need_no_correction(truth):
    curves = fsc_curves(truth, truth, VOXEL, spherical_mask(BOX, 22, 5))
    np.testing.assert_allclose(curves.corrected[:20], 1, atol=1e-5)
    assert curves.randomised_from == BOX // 2 + 1


def test_the_formula_by_hand():
    masked, noise = np.array([1, 0.9, 0.8, 0.6, 0.5, 0.3]), np.array([1, 0.9, 0.5, 0.2, 0.2, 0.4])
    found = corrected_fsc(masked, noise, 2)
    np.testing.assert_allclose(found, [1, 0.9, 0.8, 0.6, 0.375, -1 / 6], rtol=1e-6)
    # where random phases correlate wholly nothing can be told
    assert corrected_fsc(np.ones(5), np.ones(5), 1)[4] == 0


def test_resolution_in_whole_shells_is_the_last_above():
    curves = fsc_curves(*(np.zeros((2, 16, 16, 16), np.float32) + 1), 2.0, np.ones((16, 16, 16)))
    object.__setattr__(curves, "corrected", np.array([1, 1, 0.9, 0.5, 0.2, 0.1, 0.3, 0, 0], np.float32))
    assert curves.shell_resolution_angstrom == pytest.approx(32 / 4)
    assert curves.resolution_angstrom() == pytest.approx(32 / (4 + 0.057 / 0.1), rel=1e-5)
