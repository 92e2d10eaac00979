"""Alignment of maps, the fsc verb and the contact sheet, on maps whose relation is known."""

import csv
import re

import matplotlib.image
import numpy as np
import pytest
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from streamrecon.assess.align import align_volumes, fsc_between, search_size
from streamrecon.cli.main import app
from streamrecon.compare.contact_sheet import Progress, draw_contact_sheet
from streamrecon.geometry.rotation import angular_distance_degrees
from streamrecon.io import read_volume, write_volume
from streamrecon.simulate.specimen import density_from_model

BOX, VOXEL = 48, 4.2
TURN = Rotation.from_euler("ZYZ", [40, 65, -110], degrees=True).as_matrix()
SHIFT = np.array([1.5, -2.0, 0.75])  # voxels, (x, y, z)


@pytest.fixture(scope="module")
def specimen():
    return density_from_model(None, BOX, VOXEL)


def moved(volume, turn, shift):
    """Return w with w(turn @ x + shift) = volume(x), x counted from voxel box/2: splines, no Fourier transform."""
    order = np.array([2, 1, 0])  # (x, y, z) to (z, y, x)
    back = turn.T[np.ix_(order, order)]
    middle = np.full(3, len(volume) // 2)
    return affine_transform(volume, back, offset=middle - back @ (middle + shift[order]), order=5).astype(np.float32)


def inverted(volume):
    return np.ascontiguousarray(np.roll(volume[::-1, ::-1, ::-1], 1, axis=(0, 1, 2)))


@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_shift_and_hand_are_found(specimen, mirrored):
    moving = moved(specimen, TURN, SHIFT)
    if mirrored:
        moving = inverted(moving)
    reports = []
    found = align_volumes(specimen, moving, VOXEL, reports.append)
    assert found.mirrored == mirrored
    assert angular_distance_degrees(found.rotation, TURN) < 1.0
    # first(x) = second(R x) moved by s, so second's shift, seen from the first
    expected = -TURN.T @ SHIFT * VOXEL
    np.testing.assert_allclose(found.shift_angstrom, expected, atol=0.25 * VOXEL)
    assert found.correlation > 0.95
    assert found.other_hand_correlation < found.correlation - 0.2
    assert fsc_between(specimen, found.volume, VOXEL).fsc[1 : BOX // 3].min() > 0.95
    assert fsc_between(specimen, moving, VOXEL).fsc[3 : BOX // 3].mean() < 0.4
    assert sum(reports) == search_size()


def test_noise_aligns_with_nothing(specimen, rng):
    noise = rng.standard_normal((BOX,) * 3).astype(np.float32)
    found = align_volumes(specimen, noise, VOXEL)
    assert found.correlation < 0.3
    assert abs(found.correlation - found.other_hand_correlation) < 0.1


def test_the_fsc_of_a_map_with_itself_and_with_noise(specimen, rng):
    same = fsc_between(specimen, 3 * specimen, VOXEL)
    np.testing.assert_allclose(same.fsc[: BOX // 2], 1, atol=1e-5)
    np.testing.assert_allclose(same.spatial_frequency_per_angstrom, np.arange(BOX // 2 + 1) / (BOX * VOXEL))
    noise = rng.standard_normal((2, BOX, BOX, BOX))
    assert np.abs(fsc_between(*noise, VOXEL).fsc[4:]).max() < 0.2


def test_a_mask_hides_what_lies_outside(specimen, rng):
    noisy = specimen.copy()
    outside = np.ones_like(specimen)
    outside[8:-8, 8:-8, 8:-8] = 0
    noisy += outside * rng.standard_normal(specimen.shape).astype(np.float32) * specimen.max()
    assert fsc_between(specimen, noisy, VOXEL).fsc[BOX // 4] < 0.7
    assert fsc_between(specimen, noisy, VOXEL, 1 - outside).fsc[1 : BOX // 2].min() > 0.999


def invoke(*arguments):
    return CliRunner().invoke(app, ["fsc", *[str(a) for a in arguments]], env={"COLUMNS": "200"})


def test_the_verb_aligns_and_writes(specimen, tmp_path):
    write_volume(tmp_path / "a.mrc", specimen, VOXEL)
    write_volume(tmp_path / "b.mrc", inverted(moved(specimen, TURN, SHIFT)), VOXEL)
    files = [tmp_path / "a.mrc", tmp_path / "b.mrc"]
    plain = invoke(*files)
    assert plain.exit_code == 0, plain.output
    options = ["--align", "--curve", tmp_path / "c.csv", "--aligned", tmp_path / "d.mrc"]
    aligned = invoke(*files, *options)
    assert aligned.exit_code == 0, aligned.output
    assert "mirrored" in aligned.output
    before, after = (float(re.search(r"FSC 0\.5: ([\d.]+) A", o.output).group(1)) for o in (plain, aligned))
    assert before > 4 * after
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text().splitlines()))
    assert [int(row["shell_index"]) for row in rows] == list(range(BOX // 2 + 1))
    assert float(rows[10]["fsc"]) > 0.95
    volume, voxel = read_volume(tmp_path / "d.mrc")
    assert voxel == pytest.approx(VOXEL)
    assert fsc_between(specimen, volume, VOXEL).fsc[10] == pytest.approx(float(rows[10]["fsc"]), abs=1e-3)


def test_maps_that_do_not_fit_are_refused_by_name(specimen, tmp_path):
    write_volume(tmp_path / "a.mrc", specimen, VOXEL)
    write_volume(tmp_path / "b.mrc", specimen, 2 * VOXEL)
    outcome = invoke(tmp_path / "a.mrc", tmp_path / "b.mrc")
    assert outcome.exit_code == 5
    for word in ("a.mrc", "b.mrc", "4.2", "8.4"):
        assert word in outcome.output


def test_the_contact_sheet_shows_its_maps(specimen, tmp_path):
    curve = fsc_between(specimen, specimen, VOXEL)
    progress = Progress([100, 200, 300], [40.0, 30.0, 20.0])
    sheets = {}
    for name, second in (("map", specimen), ("blank", np.zeros_like(specimen))):
        path = tmp_path / f"{name}.png"
        draw_contact_sheet(path, "title", {"truth": specimen, "second": second}, {"curve": curve}, progress)
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        sheets[name] = matplotlib.image.imread(path)[..., :3].mean(axis=2)
    assert sheets["map"].shape == sheets["blank"].shape
    height = len(sheets["map"])
    rows = slice(int(0.32 * height), int(0.5 * height))  # the second of two rows of maps
    # titles are in both; what else changes from pixel to pixel is the map
    detail = {name: np.abs(np.diff(sheet[rows], axis=1)).mean() for name, sheet in sheets.items()}
    assert detail["map"] > 2 * detail["blank"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blank.png", "map.png"]
