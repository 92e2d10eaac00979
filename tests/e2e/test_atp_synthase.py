"""Fifty real particles: through the daemon, and as a map at their refined poses."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage as ndi

from streamrecon.io import read_images, read_manifest, read_sections, read_star, read_volume, write_stack, write_star
from tests.e2e.daemon import Session, streamrecon

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ("atp_synthase.star", "atp_synthase.mrcs")
PIXEL = 2.8
pytestmark = pytest.mark.slow


def put_particles(folder, *, sign=1.0):
    """Copy the set into a folder, contrast inverted if the sign says so; return its STAR file."""
    for name in NAMES:
        shutil.copyfile(FIXTURES / name, folder / name)
    if sign < 0:
        images = read_sections(FIXTURES / NAMES[1], np.arange(50))
        write_stack(folder / NAMES[1], sign * images, PIXEL)
    return folder / NAMES[0]


@pytest.fixture
def truth():
    return read_star(FIXTURES / NAMES[0])


@pytest.mark.parametrize(("sign", "contrast"), [(1.0, "protein_white"), (-1.0, "protein_black")])
def test_through_the_daemon(tmp_path, truth, sign, contrast):
    session = Session(tmp_path)
    put_particles(session.incoming, sign=sign)
    log = session.finish()
    assert f"particles are taken as {contrast}" in log
    assert '"level": "error"' not in log
    assert '"level": "warning"' not in log
    found = session.poses()
    assert found.stack_index.tolist() == list(range(50))
    for column in ("defocus_u_angstrom", "defocus_v_angstrom", "astigmatism_angle_degrees", "phase_shift_degrees"):
        np.testing.assert_allclose(getattr(found, column), getattr(truth, column), atol=0.01)
    assert [replace(g, name="") for g in found.optics_groups] == [replace(g, name="") for g in truth.optics_groups]
    # the pixels behind the names are the ones that went in
    resolved = read_manifest(session.output / "particles.star", tmp_path)
    np.testing.assert_array_equal(read_images(resolved), sign * read_sections(FIXTURES / NAMES[1], np.arange(50)))
    volume, voxel = read_volume(session.output / "snapshots" / "volume.mrc")
    assert volume.shape == (128, 128, 128)
    assert voxel == pytest.approx(PIXEL)
    assert volume.std() > 0


def lobes(path):
    """Low-pass a map to about 35 A; return the components above 0.6 of its maximum as (voxels, centre), largest first.

    F1 and Fo are some 130 A apart, a thin stalk between them.
    """
    volume, voxel = read_volume(path)
    smooth = ndi.gaussian_filter(volume, 15.0 / voxel)
    label, n = ndi.label(smooth > 0.6 * smooth.max())
    sizes = np.bincount(label.ravel())[1:]
    centers = np.array(ndi.center_of_mass(label > 0, label, range(1, n + 1)))
    order = np.argsort(-sizes)
    return [(int(sizes[i]), centers[i] * voxel) for i in order]


def elongation(path):
    """Return longest by second longest standard deviation of the low-passed density above 0.3 of its maximum."""
    volume, voxel = read_volume(path)
    smooth = ndi.gaussian_filter(volume, 15.0 / voxel)
    weight = np.clip(smooth - 0.3 * smooth.max(), 0, None)
    where = np.argwhere(weight > 0)
    spread = np.linalg.eigvalsh(np.cov(where.T, aweights=weight[weight > 0]))
    return float(np.sqrt(spread[-1] / spread[-2]))


def given_poses(star, out):
    done = streamrecon("reconstruct", star, "-o", out, "--given-poses")
    assert done.returncode == 0, done.stderr
    return out / "volume.mrc"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_refined_poses_show_two_lobes(tmp_path, sign):
    found = lobes(given_poses(put_particles(tmp_path, sign=sign), tmp_path / "out"))
    assert len(found) == 2
    (large, center), (small, other) = found
    assert small > 0.3 * large
    apart = np.abs(center - other)  # (z, y, x), angstrom
    assert 100 < np.linalg.norm(apart) < 170
    # the long axis of the refinement is z
    assert apart[0] > 5 * np.hypot(apart[1], apart[2])
    assert elongation(tmp_path / "out" / "volume.mrc") > 2


def test_shuffled_poses_show_none(tmp_path, truth):
    put_particles(tmp_path)
    order = np.random.default_rng(1).permutation(len(truth))
    star = tmp_path / "shuffled.star"
    write_star(star, truth, rotation=truth.rotation[order], shift_angstrom=truth.shift_angstrom[order])
    path = given_poses(star, tmp_path / "out")
    assert elongation(path) < 1.4
    found = lobes(path)
    two = len(found) > 1 and found[1][0] > 0.3 * found[0][0]
    assert not (two and 100 < np.linalg.norm(found[0][1] - found[1][1]) < 170)
