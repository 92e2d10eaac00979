"""Made-up specimens are what they claim to be, and a failed run is taken apart."""

import numpy as np
import pytest

from benchmarks import made_specimens
from benchmarks.convergence import Run
from benchmarks.specimens import diagnosis, doubted
from streamrecon.geometry.rotation import random_rotations

MIRROR = np.diag([-1.0, -1.0, 1.0])


def test_a_helix_has_the_distances_of_an_alpha_helix():
    """Neighbouring C-alphas are 3.8 angstrom apart, and an N and the O four residues before it bonded, at 2.9."""
    helix = made_specimens._helix(12)
    alpha = helix[:, 1]
    np.testing.assert_allclose(np.linalg.norm(np.diff(alpha, axis=0), axis=1), 3.8, atol=0.1)
    bonds = np.linalg.norm(helix[4:, 0] - helix[:-4, 3], axis=1)
    np.testing.assert_allclose(bonds, 2.9, atol=0.3)
    # N to C-alpha and C-alpha to C: bonds of 1.46 and 1.52
    np.testing.assert_allclose(np.linalg.norm(helix[:, 0] - alpha, axis=1), 1.46, atol=0.15)
    np.testing.assert_allclose(np.linalg.norm(helix[:, 2] - alpha, axis=1), 1.52, atol=0.15)


def test_the_cage_is_octahedral():
    volume = made_specimens.cage(32).volume[1:, 1:, 1:]  # the centre is then a voxel of an odd box
    for axes in ((0, 1), (0, 2), (1, 2)):
        assert np.corrcoef(volume.ravel(), np.rot90(volume, axes=axes).ravel())[0, 1] > 0.99
    assert np.corrcoef(volume.ravel(), volume[::-1].ravel())[0, 1] < 0.9  # no mirror plane


def test_the_transporter_has_a_belt_of_detergent_around_its_helices():
    """At half the helices' density the membrane is as narrow as the bundle; at a tenth, as wide as the micelle."""
    volume = made_specimens.transporter(32).volume

    def widest(share):
        area = (volume > share * volume.max()).sum(axis=(1, 2)) * 5.6**2
        return np.sqrt(area.max() / np.pi)

    assert widest(0.3) < 24.0
    assert 32.0 < widest(0.1) < 46.0


def run_of(true, found, status):
    return Run(
        seed=1, median_error_degrees=90.0, share_within_15=0.5, particles_until_90_percent=None, fsc_05_angstrom=20.0,
        reported_angstrom=12.0, settled=True, mirrored=False, images_per_second=1.0, seconds=1.0, status=status,
        last_true=true, last_found=found,
    )  # fmt: skip


@pytest.mark.parametrize("hand", ["same", "other"])
def test_a_mixture_is_recognised(hand):
    rng = np.random.default_rng(0)
    true = random_rotations(rng, 400)
    frames = random_rotations(rng, 2)
    first = np.einsum("ij,njk->nik", frames[0], true)
    second = np.einsum("ij,njk->nik", frames[1], true @ MIRROR if hand == "other" else true)
    found = np.where((np.arange(400) < 260)[:, None, None], first, second)
    found[380:] = random_rotations(rng, 20)
    status = {"stage": "settled", "coarse_entropy": 0.2, "log_evidence": 8.0, "challenges": 1}
    text = diagnosis(run_of(true, found, status), 1)
    assert text.startswith(f"65% in one frame, 30% in a second one of the {hand} hand, 5% in neither")
    assert "doubted by the engine: yes" in text


def test_an_engine_that_says_nothing_of_doubts():
    assert doubted(run_of(np.zeros((1, 3, 3)), np.zeros((1, 3, 3)), {})) is None
