"""Metadata in the layouts of the real sets that docs/datasets.md names, made up in small."""

import numpy as np
import pytest

from streamrecon.errors import IngestError
from streamrecon.io import fill_box_size, probe_stack, read_images, read_manifest, write_stack

# one table without optics groups: RELION 1.x, from which EMPIAR-10028, 10076 and 10180 were deposited
HEAD = """
data_

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnVoltage #6
_rlnSphericalAberration #7
_rlnAmplitudeContrast #8
_rlnMagnification #9
_rlnDetectorPixelSize #10
"""


def row(image, micrograph, magnification=38168, more=""):
    return f"{image} {micrograph} 15301.1 14916.4 5.28 300 2.7 0.07 {magnification} 5{more}\n"


def images(n, first):
    return np.stack([np.full((8, 8), first + i, np.float32) for i in range(n)])


def read(star, root):
    table = read_manifest(star, root)
    return table, read_images(fill_box_size(table, probe_stack(table.stack_names[0]).nx))


def test_10076_one_stack_with_the_suffix_mrc_and_a_pixel_size_from_the_magnification(tmp_path):
    write_stack(tmp_path / "L17Combine_weight_local.mrc", images(3, 0), 1.31)
    star = tmp_path / "Parameters.star"
    star.write_text(HEAD + "".join(row(f"{i + 1}@L17Combine_weight_local.mrc", i + 1) for i in (2, 0)))
    table, found = read(star, tmp_path)
    (group,) = table.optics_groups
    assert group.pixel_size_angstrom == pytest.approx(1.31, abs=5e-4)
    assert (group.voltage_kilovolt, group.spherical_aberration_millimeter, group.amplitude_contrast) == (300, 2.7, 0.07)
    assert found[:, 0, 0].tolist() == [2.0, 0.0]
    assert table.defocus_u_angstrom.tolist() == pytest.approx([15301.1, 15301.1], rel=1e-6)


def test_10028_stacks_in_folders_below_the_table(tmp_path):
    for name, first in (("Particles/MRC_0601/001.mrcs", 0), ("Particles/MRC_0601/002.mrcs", 10)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_stack(tmp_path / name, images(2, first), 1.34)
    rows = [
        row("000002@Particles/MRC_0601/002.mrcs", "MRC_0601/002.mrc", 37313.4),
        row("000001@Particles/MRC_0601/001.mrcs", "MRC_0601/001.mrc", 37313.4),
    ]
    star = tmp_path / "shiny_2sets.star"
    star.write_text(HEAD + "".join(rows))
    table, found = read(star, tmp_path)
    assert table.optics_groups[0].pixel_size_angstrom == pytest.approx(1.34, abs=5e-4)
    assert found[:, 0, 0].tolist() == [11.0, 0.0]
    assert table.micrograph_names == ("MRC_0601/002.mrc", "MRC_0601/001.mrc")


def test_10028_a_stray_character_is_refused_and_the_file_named(tmp_path):
    write_stack(tmp_path / "a.mrcs", images(2, 0), 1.34)
    star = tmp_path / "shiny_2sets.star"
    star.write_text(HEAD + row("1@a.mrcs", "m1") + "9\n" + row("2@a.mrcs", "m2"))
    with pytest.raises(IngestError, match=r"shiny_2sets\.star"):
        read_manifest(star, tmp_path)


def test_10180_a_table_in_a_folder_of_its_own_whose_paths_start_above_it(tmp_path):
    (tmp_path / "Particles").mkdir()
    (tmp_path / "Example").mkdir()
    write_stack(tmp_path / "Particles/frac1.mrcs", images(2, 0), 1.7)
    star = tmp_path / "Example/consensus_data.star"
    columns = "_rlnAngleRot #11\n_rlnAngleTilt #12\n_rlnAnglePsi #13\n_rlnOriginX #14\n_rlnOriginY #15\n"
    star.write_text(HEAD + columns + row("2@Particles/frac1.mrcs", "m1", 29411.8, " 10 20 30 1.5 -2"))
    table, found = read(star, tmp_path)
    assert found[:, 0, 0].tolist() == [1.0]
    assert table.rotation is not None
    # RELION's origins are in pixels here, and say how the image is to be moved
    assert table.shift_angstrom[0] == pytest.approx([-1.5 * 1.7, 2 * 1.7], rel=1e-3)
