"""A symmetric particle with its symmetry imposed: better than without, in RELION's orientation, and taken up again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.assess.symmetry_trust import trusted_symmetry
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.geometry.symmetry import symmetry_operators
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.specimen import density_from_map
from tests.simulated import batches
from tests.unit.assess.test_symmetry import turned

pytestmark = pytest.mark.slow
BOX, PIXEL = 48, 64 * 3.54 / 48
PARTICLES = 4200
FIXTURE = Path(__file__).parents[1] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"


def fresh(symmetry):
    settings = EngineSettings(starts=1, settle_images=1200, symmetry=symmetry)
    return Engine(settings, BOX, PIXEL, CpuBackend(2), 2, find_symmetry=trusted_symmetry)


@pytest.fixture(scope="module")
def truth():
    return density_from_map(FIXTURE, BOX, PIXEL)


@pytest.fixture(scope="module")
def runs(truth):
    """The same particles without and with D2; the poses of the last 500 with the truth."""
    found = {}
    for symmetry in ("C1", "D2"):
        engine, rotations, true = fresh(symmetry), [], []
        for batch, rotation in batches(truth, PIXEL, PARTICLES, 0.2, seed=5):
            rotations.append(engine.fold(batch).rotation)
            true.append(rotation)
        found[symmetry] = (engine, np.concatenate(rotations[-5:]), np.concatenate(true[-5:]))
    return found


def resolution(truth, engine):
    aligned = align_volumes(truth, engine.snapshot().volume, PIXEL)
    return fsc_between(truth, aligned.volume, PIXEL)


def test_the_map_is_better_and_says_so_honestly(truth, runs):
    plain, imposed = (resolution(truth, runs[s][0]) for s in ("C1", "D2"))
    band = slice(8, 18)
    assert imposed.fsc[band].mean() > plain.fsc[band].mean() + 0.03
    assert imposed.resolution_05_angstrom < 0.97 * plain.resolution_05_angstrom
    engine = runs["D2"][0]
    assert engine.status.symmetry == "D2"
    assert engine.status.stage == "refining"
    assert runs["C1"][0].status.symmetry == "C1"
    assert engine.snapshot().resolution_angstrom > 0.85 * imposed.resolution_05_angstrom


def test_the_map_lies_in_relions_orientation(runs):
    volume = runs["D2"][0].snapshot().volume
    z, y, x = np.indices(volume.shape) - BOX // 2
    ball = x**2 + y**2 + z**2 < 18**2
    for operator in symmetry_operators("D2")[1:]:
        assert np.corrcoef(turned(volume, operator)[ball], volume[ball])[0, 1] > 0.97
    other = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter turn is not in the group
    assert np.corrcoef(turned(volume, other)[ball], volume[ball])[0, 1] < 0.9


def test_one_of_all_equivalent_poses_is_searched(runs):
    engine, found, true = runs["D2"]
    errors = pose_errors(true, found, n_symmetric=4)
    assert errors.median_degrees < 5.0
    cells = engine._starts[0]._poses.cells
    assert cells.share < 0.5


def test_a_checkpoint_takes_the_symmetry_along(truth, runs):
    engine = runs["D2"][0]
    resumed = fresh("D2")
    resumed.restore(engine.state())
    assert resumed.status.symmetry == "D2"
    more = [b for b, _ in batches(truth, PIXEL, 200, 0.2, seed=77)]
    for batch in more:
        engine.fold(batch)
        resumed.fold(batch)
    assert np.array_equal(engine.snapshot().volume, resumed.snapshot().volume)
