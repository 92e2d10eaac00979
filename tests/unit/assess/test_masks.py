import numpy as np
import pytest
from specimens import noisy_halves

from streamrecon.assess.masks import automatic_mask, check_mask, spherical_mask
from streamrecon.errors import NumericalError, UnsupportedFormat
from streamrecon.simulate.specimen import density_from_model

BOX, VOXEL = 64, 3.3


@pytest.fixture(scope="module")
def truth():
    return density_from_model(None, BOX, VOXEL)


def inside(truth):
    return truth > 0.15 * truth.max()


@pytest.mark.parametrize("shell", [12, 22])
def test_the_outline_holds_the_particle_and_leaves_the_solvent(truth, rng, shell):
    mask = automatic_mask(*noisy_halves(truth, shell, rng), VOXEL)
    particle = inside(truth)
    assert (mask[particle] > 0.5).mean() > 0.97
    assert particle.sum() < (mask > 0.5).sum() < 5 * particle.sum()
    assert 0 <= mask.min() <= 1e-6
    assert mask.max() == pytest.approx(1)
    # soft: from 1 to 0 it takes some voxels
    assert np.abs(np.diff(mask, axis=0)).max() < 0.4


def test_a_large_box_gives_the_same_outline_as_a_small_one(truth, rng):
    fine = density_from_model(None, 2 * BOX, VOXEL / 2)  # beyond 96 voxels the outline is found on a coarser grid
    small = automatic_mask(*noisy_halves(truth, 28, rng), VOXEL)
    large = automatic_mask(*noisy_halves(fine, 28, rng), VOXEL / 2)

    def correlation(shift):
        # voxel n / 2 is the centre of both: every second voxel of the large box is a voxel of the small one
        return np.corrcoef(np.roll(large, shift, 0)[::2, ::2, ::2].ravel(), small.ravel())[0, 1]

    assert correlation(0) > 0.95
    assert max(correlation(-2), correlation(2)) < correlation(0)


def test_noise_alone_is_no_particle(rng):
    with pytest.raises(NumericalError, match="found nothing"):
        automatic_mask(*(rng.standard_normal((2, 32, 32, 32)).astype(np.float32)), 3.0)


def test_a_speck_of_dust_is_left_out(truth, rng):
    dusty = truth.copy()
    dusty[5:8, 30:33, 30:33] = truth.max()
    mask = automatic_mask(*noisy_halves(dusty, 22, rng), VOXEL)
    assert mask[6, 31, 31] < 0.05


def test_sphere_is_one_inside_and_zero_outside():
    mask = spherical_mask(32, 8.0, 4.0)
    z, y, x = np.indices(mask.shape) - 16
    radius = np.sqrt(x**2 + y**2 + z**2)
    assert (mask[radius <= 8] == 1).all()
    assert (mask[radius >= 12] == 0).all()
    np.testing.assert_allclose(mask[radius == 10], 0.5, atol=1e-6)


def good():
    return spherical_mask(32, 8.0, 4.0)


@pytest.mark.parametrize(
    ("mask", "voxel", "what"),
    [
        (good()[:16], 3.0, "32 voxels"),
        (good(), 3.1, "3.1 A"),
        (2 * good(), 3.0, "0 to 2"),
        (np.where(good() > 0.5, np.nan, good()), 3.0, "nan"),
        (0 * good(), 3.0, "inside and an outside"),
        ((good() > 0.5).astype(np.float32), 3.0, "soft edge"),
    ],
)
def test_masks_that_would_mislead_are_refused(mask, voxel, what):
    with pytest.raises(UnsupportedFormat, match=what) as caught:
        check_mask(mask, voxel, 32, 3.0, "my_mask.mrc")
    assert "my_mask.mrc" in str(caught.value)


def test_a_good_mask_passes_as_it_is():
    np.testing.assert_array_equal(check_mask(good(), 3.0, 32, 3.0, "m"), good())
