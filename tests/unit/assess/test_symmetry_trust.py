"""What may be imposed: what both halves hold up to where they agree, not what is only alike at low resolution."""

from pathlib import Path

import numpy as np
import pytest
from specimens import blobs, noisy_halves

from streamrecon.assess.symmetry_search import locate_symmetry
from streamrecon.assess.symmetry_trust import held_between_halves, trusted_symmetry
from streamrecon.io import read_volume
from streamrecon.simulate.specimen import density_from_model

BETA_GALACTOSIDASE = Path(__file__).parents[2] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"


@pytest.fixture(scope="module")
def f1_atpase():
    return density_from_model(None, 64, 3.2)


@pytest.mark.parametrize("asked", ["D2", "auto"])
def test_beta_galactosidase_may_be_d2(asked, rng):
    volume, voxel = read_volume(BETA_GALACTOSIDASE)
    orientation, reason = trusted_symmetry(*noisy_halves(volume, 18, rng), voxel, asked)
    assert orientation.group == "D2"
    assert "D2" in reason
    # one half map of noise apart, turned by an operator about the centre, the truth is itself
    at = np.eye(3)
    for operator in orientation.operators[1:]:
        assert abs(np.trace(operator) + 1) < 1e-6  # a half turn
        at = at @ operator
    np.testing.assert_allclose(at, np.eye(3), atol=1e-6)


def test_another_group_than_the_map_has_is_refused_with_the_reason(rng):
    volume, voxel = read_volume(BETA_GALACTOSIDASE)
    orientation, reason = trusted_symmetry(*noisy_halves(volume, 18, rng), voxel, "C3")
    assert orientation.group == "C1"
    assert "C3" in reason


@pytest.mark.parametrize("shell", [15, 24])
def test_a_pseudo_symmetric_particle_is_left_alone(f1_atpase, shell, rng):
    halves = noisy_halves(f1_atpase, shell, rng)
    for asked in ("auto", "C3"):
        orientation, reason = trusted_symmetry(*halves, 3.2, asked)
        if orientation is None:
            assert (asked, shell) == ("auto", 15)
            assert "coarse" in reason
        else:
            assert orientation.group == "C1"
            assert "C3" in reason


def test_likeness_at_low_resolution_does_not_hold_between_halves(f1_atpase, rng):
    """Where the axes are told by the lowest shells alone, the finer ones say no: the second look is worth its cost."""
    halves = noisy_halves(f1_atpase, 20, rng)
    found = locate_symmetry(f1_atpase, "C3")
    assert found.correlation > 0.55
    assert held_between_halves(*halves, "C3", found.placement, 16) < 0.6
    volume, _, _ = blobs("C3", 16)
    symmetric = locate_symmetry(volume, "C3")
    halves = noisy_halves(volume, 14, rng)
    assert held_between_halves(*halves, "C3", symmetric.placement, 11) == pytest.approx(1.0, abs=0.12)


def test_an_asymmetric_particle_has_none(rng):
    volume, _, _ = blobs("C1", 40, seed=3)
    orientation, _ = trusted_symmetry(*noisy_halves(volume, 16, rng), 3.0, "auto")
    assert orientation.group == "C1"


def test_a_coarse_map_is_not_judged_unasked(rng):
    volume, _, _ = blobs("C3", 16)
    halves = noisy_halves(volume, 9, rng)
    found, reason = trusted_symmetry(*halves, 4.0, "auto")
    assert found is None
    assert "coarse" in reason
    assert trusted_symmetry(*halves, 4.0, "C3")[0].group == "C3"
