import tracemalloc
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

from streamrecon.errors import IngestError, ManifestMismatch, StackIncomplete, UnsupportedFormat
from streamrecon.io import read_star, write_star
from streamrecon.particles import ParticleTable

OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
7 second 200.0 2.0 0.07 2.5 64 2
3 first 300.0 2.7 0.10 2.5 64 2

"""
PARTICLES = """data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnPhaseShift #6
_rlnAngleRot #7
_rlnAngleTilt #8
_rlnAnglePsi #9
_rlnOriginXAngst #10
_rlnOriginYAngst #11
_rlnMicrographName #12
000012@Extract/a.mrcs 3 15000.5 14000 31.5 90 10 20 30 1.5 -2.5 mics/m1.mrc
000001@Extract/b.mrcs 7 16000 15000 -20 0 0 90 0 0 4 mics/m1.mrc
3@Extract/a.mrcs 3 17000 16000 0 0 0 0 0 0 0 mics/m2.mrc

"""
OLD = """
data_

loop_
_rlnImageName #1
_rlnMagnification #2
_rlnDetectorPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnOriginX #10
_rlnOriginY #11
1@s.mrcs 50000 14 300 2.7 0.1 10000 9000 45 2 -1
2@s.mrcs 50000 14 200 2.7 0.1 11000 9500 45 0 0
3@s.mrcs 50000 14 300 2.7 0.1 12000 9900 45 0 0
"""


@pytest.fixture
def star(tmp_path: Path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "particles.star"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def euler_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's Euler_angles2matrix, from euler.cpp: maps volume vectors to the image frame."""
    a, b, g = np.deg2rad([rot, tilt, psi])
    ca, cb, cg, sa, sb, sg = np.cos(a), np.cos(b), np.cos(g), np.sin(a), np.sin(b), np.sin(g)
    cc, cs, sc, ss = cb * ca, cb * sa, sb * ca, sb * sa
    return np.array(
        [
            [cg * cc - sg * sa, cg * cs + sg * ca, -cg * sb],
            [-sg * cc - cg * sa, -sg * cs + cg * ca, sg * sb],
            [sc, ss, cb],
        ]
    )


def test_reads_optics_groups_by_their_number(star) -> None:
    table = read_star(star(OPTICS + PARTICLES))
    assert [g.name for g in table.optics_groups] == ["second", "first"]
    group = table.optics_groups[1]
    assert (group.voltage_kilovolt, group.spherical_aberration_millimeter, group.amplitude_contrast) == (300, 2.7, 0.1)
    assert (group.pixel_size_angstrom, group.box_size) == (2.5, 64)
    assert table.optics_group_index.tolist() == [1, 0, 1]
    assert table.stack_names == ("Extract/a.mrcs", "Extract/b.mrcs")
    assert table.stack_number.tolist() == [0, 1, 0]
    assert table.stack_index.tolist() == [11, 0, 2]
    assert table.identities()[0] == "000012@Extract/a.mrcs"
    assert table.micrograph_names == ("mics/m1.mrc", "mics/m1.mrc", "mics/m2.mrc")


def test_reads_ctf_and_poses_in_their_units_and_signs(star) -> None:
    table = read_star(star(OPTICS + PARTICLES))
    assert table.defocus_u_angstrom.tolist() == [15000.5, 16000, 17000]
    assert table.defocus_v_angstrom.tolist() == [14000, 15000, 16000]
    assert table.astigmatism_angle_degrees.tolist() == [31.5, -20, 0]
    assert table.phase_shift_degrees.tolist() == [90, 0, 0]
    assert table.has_ctf
    np.testing.assert_allclose(table.shift_angstrom[0], [-1.5, 2.5])
    np.testing.assert_allclose(table.rotation[0], euler_matrix(10, 20, 30).T, atol=1e-6)


def test_reads_relion_3_0(star) -> None:
    table = read_star(star(OLD))
    assert len(table.optics_groups) == 2
    assert {g.voltage_kilovolt for g in table.optics_groups} == {200, 300}
    assert table.optics_groups[table.optics_group_index[1]].voltage_kilovolt == 200
    assert table.optics_group_index[0] == table.optics_group_index[2]
    assert {g.pixel_size_angstrom for g in table.optics_groups} == {2.8}
    assert {g.box_size for g in table.optics_groups} == {0}
    np.testing.assert_allclose(table.shift_angstrom[0], [-5.6, 2.8])
    assert table.rotation is None
    assert table.micrograph_names is None


@pytest.mark.parametrize("name", ["data_images", "data_particles"])
def test_accepts_every_name_of_the_particles_block(star, name: str) -> None:
    assert len(read_star(star(OLD.replace("data_\n", name + "\n")))) == 3


def test_windows_line_ends(star) -> None:
    table = read_star(star((OPTICS + PARTICLES).replace("\n", "\r\n")))
    assert table.stack_names == ("Extract/a.mrcs", "Extract/b.mrcs")
    assert table.micrograph_names[-1] == "mics/m2.mrc"


def test_names_with_blanks_and_beyond_ascii(star) -> None:
    text = OLD.replace("1@s.mrcs", '"1@my dir/s.mrcs"').replace("2@s.mrcs", "2@größe/50%25.mrcs")
    table = read_star(star(text))
    assert table.stack_names == ("my dir/s.mrcs", "größe/50%25.mrcs", "s.mrcs")
    latin = read_star(star(text.encode("latin-1")))
    assert latin.stack_names[1].encode("utf-8", "surrogateescape") == "größe/50%25.mrcs".encode("latin-1")


def test_without_ctf_the_defocus_is_unknown(star) -> None:
    table = read_star(star("data_\nloop_\n_rlnImageName\n_rlnPixelSize\n1@s.mrcs 1.5\n2@s.mrcs 1.5\n"))
    assert np.isnan(table.defocus_u_angstrom).all()
    assert np.isnan(table.defocus_v_angstrom).all()
    assert not table.has_ctf
    assert (table.ctf_coefficients()[:, :4] == 0).all()


@pytest.mark.parametrize(
    ("column", "remedy"),
    [
        ("rlnVoltage", "rlnVoltage"),
        ("rlnAmplitudeContrast", "rlnAmplitudeContrast"),
        ("rlnMagnification", "pixel size"),
    ],
)
def test_a_missing_column_is_named(star, column: str, remedy: str) -> None:
    with pytest.raises(ManifestMismatch, match=rf"particles\.star: expected.*{remedy}"):
        read_star(star(OLD.replace(column, "other")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10000 9000", "10000 many", "column rlnDefocusV of data_, found 'many' in row 1"),
        ("11000 9500", "nan 9500", "finite numbers in column rlnDefocusU.*row 2"),
        ("2@s.mrcs", "0@s.mrcs", "found '0@s.mrcs' in row 2"),
        ("2@s.mrcs", "x@s.mrcs", "found 'x@s.mrcs' in row 2"),
        ("1@s.mrcs 50000", "1@s.mrcs 0", "rlnMagnification above zero"),
        ("2@s.mrcs", f"{'9' * 5000}@s.mrcs", r"found '99+\.\.\.9+@s.mrcs' in row 2"),
    ],
)
def test_a_bad_value_is_named(star, old: str, new: str, message: str) -> None:
    assert old in OLD
    with pytest.raises(ManifestMismatch, match=message):
        read_star(star(OLD.replace(old, new)))


def test_columns_of_another_loop_are_not_taken_for_the_particles(star) -> None:
    two_rows = "loop_\n_rlnImagePixelSize\n_rlnDefocusU\n1.5 9000\n1.5 9000\n"
    text = f"data_images\nloop_\n_rlnImageName\n1@a.mrcs\n{two_rows}"
    with pytest.raises(ManifestMismatch, match=r"1 values of rlnImagePixelSize, as of rlnImageName,.*found 2"):
        read_star(star(text))


def test_one_long_item_does_not_widen_its_whole_column(star) -> None:
    row = OLD.rstrip().rsplit("\n", 1)[1]
    text = OLD + 2000 * f"{row}\n" + row.replace("12000", 20_000 * "x") + "\n"
    path = star(text)
    tracemalloc.start()
    try:
        with pytest.raises(ManifestMismatch, match=r"found 'x+\.\.\.x+' in row 2004"):
            read_star(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * len(text)  # as an array of texts the column alone would be 160 MB, a thousand times the file


def test_an_unknown_optics_group_is_named(star) -> None:
    with pytest.raises(ManifestMismatch, match=r"\[3, 7\].*found \[5\]"):
        read_star(star(OPTICS + PARTICLES.replace("b.mrcs 7", "b.mrcs 5")))
    with pytest.raises(ManifestMismatch, match="distinct numbers"):
        read_star(star(OPTICS.replace("7 second", "3 second") + PARTICLES.replace("b.mrcs 7", "b.mrcs 3")))


@pytest.mark.parametrize(("column", "value"), [("rlnImageDimensionality", "3"), ("rlnCtfDataAreCtfPremultiplied", "1")])
def test_images_that_are_no_plain_projections_are_refused(star, column: str, value: str) -> None:
    text = OPTICS.replace("rlnImageDimensionality", column).replace("64 2\n", f"64 {value}\n")
    with pytest.raises(UnsupportedFormat, match=column):
        read_star(star(text + PARTICLES))


def test_every_cut_is_either_noticed_or_between_two_rows(star) -> None:
    """Cut at each byte: a reader must say "incomplete" or return whole rows, never a padded table."""
    text = OPTICS + PARTICLES
    whole = read_star(star(text))
    for size in range(len(text)):
        try:
            table = read_star(star(text[:size]))
        except StackIncomplete:
            continue
        except ManifestMismatch:
            # inside the heading's words: another column name, or a name without its number, is all one can see
            assert size < text.index("000012@"), text[:size][-60:]
            continue
        assert len(table) <= len(whole)
        rows = slice(0, len(table))
        assert table.identities() == whole.identities()[rows]
        np.testing.assert_array_equal(table.rotation, whole.rotation[rows])


def test_files_that_hold_no_particles(star) -> None:
    with pytest.raises(StackIncomplete):
        read_star(star(""))
    with pytest.raises(StackIncomplete):
        read_star(star(OPTICS))
    with pytest.raises(ManifestMismatch, match="data_micrographs without it"):
        read_star(star("data_micrographs\n\nloop_\n_rlnMicrographName\nm.mrc\n"))
    with pytest.raises(ManifestMismatch, match="expected a STAR file"):
        read_star(star("not a star file\nat all\n"))
    with pytest.raises(StackIncomplete):
        read_star(star(OLD + "\0" * 100))
    with pytest.raises(IngestError, match="moved or deleted"):
        read_star(Path("gone.star"))


@pytest.fixture
def table(star) -> ParticleTable:
    return read_star(star(OPTICS + PARTICLES))


def test_what_is_written_comes_back(tmp_path: Path, table: ParticleTable) -> None:
    path = tmp_path / "out.star"
    write_star(
        path,
        table,
        rotation=table.rotation,
        shift_angstrom=table.shift_angstrom,
        half=np.array([0, 1, 1]),
        extra_columns={"rlnClassNumber": np.array([1, 2, 3]), "rlnCtfFigureOfMerit": np.array([0.5, 0.25, 1e-9])},
    )
    back = read_star(path)
    assert back.optics_groups == table.optics_groups
    assert back.identities() == table.identities()
    assert back.micrograph_names == table.micrograph_names
    for name in ("optics_group_index", "defocus_u_angstrom", "astigmatism_angle_degrees", "phase_shift_degrees"):
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
    np.testing.assert_allclose(back.rotation, table.rotation, atol=1e-6)
    np.testing.assert_allclose(back.shift_angstrom, table.shift_angstrom, atol=1e-5)
    block = gemmi.cif.read(str(path))["particles"]
    assert list(block.find_values("_rlnRandomSubset")) == ["1", "2", "2"]
    assert list(block.find_values("_rlnClassNumber")) == ["1", "2", "3"]
    assert [float(v) for v in block.find_values("_rlnCtfFigureOfMerit")] == [0.5, 0.25, 1e-9]
    assert [float(v) for v in block.find_values("_rlnOriginXAngst")] == [1.5, 0.0, 0.0]


def test_without_poses_and_ctf_there_are_no_such_columns(tmp_path: Path, star) -> None:
    table = read_star(star("data_\nloop_\n_rlnImageName\n_rlnPixelSize\n1@s.mrcs 1.5\n"))
    write_star(tmp_path / "o.star", table, rotation=None, shift_angstrom=None)
    text = (tmp_path / "o.star").read_text()
    assert "rlnAngle" not in text
    assert "rlnDefocus" not in text
    back = read_star(tmp_path / "o.star")
    assert not back.has_ctf
    assert back.rotation is None


def test_a_name_that_no_star_file_can_hold(tmp_path: Path, table: ParticleTable) -> None:
    for name in ("two\nlines", """a 'b" c"""):
        odd = replace(table, stack_names=(name, "b.mrcs"))
        with pytest.raises(ManifestMismatch, match="rename the file"):
            write_star(tmp_path / "o.star", odd, rotation=None, shift_angstrom=None)
    assert not (tmp_path / "o.star").exists()


def test_awkward_names_come_back(tmp_path: Path, table: ParticleTable) -> None:
    names = ("my dir/ä 'x'.mrcs", "b\udcff.mrcs")
    micrographs = ("", "_under score.mrc", "#hash")
    odd = replace(table, stack_names=names, micrograph_names=micrographs)
    write_star(tmp_path / "o.star", odd, rotation=None, shift_angstrom=None)
    back = read_star(tmp_path / "o.star")
    assert back.stack_names == names
    assert back.micrograph_names == micrographs


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("_rlnDefocusU #2\n_rlnDefocusU #3\n000001@s.mrcs 1 1\n", "duplicate"),
        ("_rlnImagePixelSize #2\n000001@s.mrcs 1e-320\n", "above zero"),
        ("_rlnImagePixelSize #2\n000001@s.mrcs 1e300\n", "finite numbers"),
        ("_rlnImagePixelSize #2\n000001@s.mrcs 1e6\n", "pixel size"),
    ],
)
def test_what_would_end_in_infinity_is_refused(tmp_path, rows, what):
    path = tmp_path / "p.star"
    path.write_text("data_\nloop_\n_rlnImageName #1\n" + rows)
    with pytest.raises(ManifestMismatch, match=what):
        read_star(path)
