"""A symmetric particle with its symmetry imposed: better than without, in RELION's orientation, and taken up again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.assess.symmetry_trust import trusted_symmetry
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.geometry.symmetry import symmetry_operators
from streamrecon.inference.observation import soft_sphere
from streamrecon.io import read_volume, write_stack, write_star
from streamrecon.particles import ParticleTable
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.specimen import density_from_map
from tests.simulated import batches

pytestmark = pytest.mark.slow
BOX, PIXEL = 48, 64 * 3.54 / 48
PARTICLES = 4200
FIXTURE = Path(__file__).parents[1] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"


def turned(volume, operator):
    """volume(operator @ x) around voxel box / 2, by splines: not the way the package does it."""
    order = np.array([2, 1, 0])
    matrix = operator[np.ix_(order, order)]
    middle = np.full(3, len(volume) // 2)
    return affine_transform(volume, matrix, offset=middle - matrix @ middle, order=3)


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


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION's programs are not on PATH")
def test_relion_makes_the_same_map_of_the_published_poses_under_the_same_group(truth, runs, tmp_path):
    """relion_reconstruct --sym D2 of a STAR file with our poses: our map, without any alignment."""
    engine = runs["D2"][0]
    kept, tables, rotation, shift = [], [], [], []
    for batch, _ in batches(truth, PIXEL, 1000, 0.2, seed=6):
        state = engine.state()
        found = engine.fold(batch)
        engine.restore(state)
        pose = engine.orientation.publish(found.rotation, found.shift_angstrom, PIXEL)
        kept.append(batch.images)
        tables.append(batch.table)
        rotation.append(pose[0])
        shift.append(pose[1])
    write_stack(tmp_path / "all.mrcs", np.concatenate(kept), PIXEL)
    columns = ("defocus_u_angstrom", "defocus_v_angstrom", "astigmatism_angle_degrees", "phase_shift_degrees")
    n = sum(map(len, kept))
    table = ParticleTable(
        optics_groups=tables[0].optics_groups,
        stack_names=("all.mrcs",),
        optics_group_index=np.zeros(n, np.int32),
        stack_number=np.zeros(n, np.int32),
        stack_index=np.arange(n, dtype=np.int32),
        **{name: np.concatenate([getattr(t, name) for t in tables]) for name in columns},
    )
    write_star(tmp_path / "all.star", table, rotation=np.concatenate(rotation), shift_angstrom=np.concatenate(shift))
    ours = engine.snapshot().volume
    agreement = {}
    for group in ("D2", "C1"):
        command = ["relion_reconstruct", "--i", "all.star", "--o", f"{group}.mrc", "--ctf", "--sym", group]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        theirs = read_volume(tmp_path / f"{group}.mrc")[0]
        mask = soft_sphere(BOX, 16.0, 4.0, dimensions=3)
        agreement[group] = fsc_between(ours, theirs, PIXEL, mask).fsc[3:14]
    assert agreement["D2"].min() > 0.9
    assert agreement["D2"].mean() > agreement["C1"].mean() + 0.02


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
