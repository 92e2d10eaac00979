"""Groups found, placed and imposed on densities that have them, and not on those that have none."""

from pathlib import Path

import numpy as np
import pytest
from specimens import blobs

from streamrecon.assess.symmetry import Placement, impose_symmetry
from streamrecon.assess.symmetry_search import ACCEPTED, find_symmetry, locate_symmetry
from streamrecon.geometry.symmetry import symmetry_operators
from streamrecon.io import read_volume
from streamrecon.simulate.specimen import density_from_model

BETA_GALACTOSIDASE = Path(__file__).parents[2] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"
COPIES = {"C3": 16, "C7": 7, "D3": 8, "T": 4, "O": 3, "I": 2}


def turned(volume, operator):
    """volume(operator @ x) around voxel box / 2, by splines: not the way the package does it."""
    from scipy.ndimage import affine_transform

    order = np.array([2, 1, 0])
    matrix = operator[np.ix_(order, order)]
    middle = np.full(3, len(volume) // 2)
    return affine_transform(volume, matrix, offset=middle - matrix @ middle, order=3)


@pytest.mark.parametrize("group", COPIES)
def test_a_group_is_found_in_noise_and_brought_into_standard_orientation(group, rng):
    volume, _, _ = blobs(group, COPIES[group])
    noisy = volume + 0.7 * volume.std() * rng.standard_normal(volume.shape)
    found = find_symmetry(noisy)
    assert found.group == group
    assert found.correlation > ACCEPTED
    standard = impose_symmetry(volume, "C1", found.placement)
    z, y, x = np.indices(volume.shape) - len(volume) // 2
    ball = x**2 + y**2 + z**2 < (len(volume) // 2 - 4) ** 2
    for operator in symmetry_operators(group)[1:8]:
        again = turned(standard, operator)
        assert np.corrcoef(again[ball], standard[ball])[0, 1] > 0.9


def test_an_asymmetric_density_has_none(rng):
    volume, _, _ = blobs("C1", 40, seed=3)
    assert find_symmetry(volume).group == "C1"
    noise = rng.standard_normal((48, 48, 48)).astype(np.float32)
    assert find_symmetry(noise).group == "C1"


def test_a_ball_is_round_not_symmetric():
    z, y, x = np.indices((48, 48, 48)) - 24
    ball = np.exp(-((np.sqrt(x**2 + y**2 + z**2) - 10) ** 2) / 8).astype(np.float32)
    found = find_symmetry(ball)
    assert found.group[0] not in "CD" or found.group == "C1"


def test_a_pseudo_symmetric_particle_is_not_called_symmetric():
    """F1-ATPase: three alpha-beta pairs of one fold around a stalk that breaks them."""
    found = find_symmetry(density_from_model(None, 64, 3.2))
    assert found.group == "C1"
    assert found.runner_up == "C3"
    assert found.correlation < ACCEPTED


def test_beta_galactosidase_is_found_to_be_d2():
    volume, _ = read_volume(BETA_GALACTOSIDASE)
    found = find_symmetry(volume)
    assert found.group == "D2"
    assert found.correlation > 0.95


def test_a_group_that_is_known_is_located_and_one_that_is_not_there_says_so():
    volume, turn, center = blobs("D3", 8, seed=5)
    found = locate_symmetry(volume, "D3")
    assert found.correlation > 0.95
    np.testing.assert_allclose(found.placement.center, center, atol=0.2)
    # the main axis: z of the standard orientation, either way up
    assert abs(found.placement.rotation[:, 2] @ turn[:, 2]) > np.cos(np.deg2rad(1))
    assert locate_symmetry(volume, "C5").correlation < ACCEPTED


def test_imposing_averages_the_copies(rng):
    volume, turn, center = blobs("D2", 12, seed=2)
    noise = 2 * volume.std() * rng.standard_normal(volume.shape)
    at = Placement(turn, center)
    clean = impose_symmetry(volume, "C1", at)
    before = impose_symmetry(volume + noise, "C1", at)
    after = impose_symmetry(volume + noise, "D2", at)
    z, y, x = np.indices(volume.shape) - 24
    ball = x**2 + y**2 + z**2 < 18**2
    errors = [np.std((v - clean)[ball]) for v in (before, after)]
    # four independent copies: half the noise
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.08)
    # nothing turned, nothing moved: trilinear slices of a padded transform keep all but the rim
    assert np.corrcoef(impose_symmetry(volume, "C1")[ball], volume[ball])[0, 1] > 0.999
