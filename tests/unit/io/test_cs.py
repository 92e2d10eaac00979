from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm

from streamrecon.errors import IngestError, ManifestMismatch, StackIncomplete, UnsupportedFormat
from streamrecon.io import read_cs, write_cs

FIELDS = [
    ("uid", "<u8"),
    ("blob/path", "S40"),
    ("blob/idx", "<u4"),
    ("blob/shape", "<u4", (2,)),
    ("blob/psize_A", "<f4"),
    ("ctf/exp_group_id", "<u4"),
    ("ctf/accel_kv", "<f4"),
    ("ctf/cs_mm", "<f4"),
    ("ctf/amp_contrast", "<f4"),
    ("ctf/df1_A", "<f4"),
    ("ctf/df2_A", "<f4"),
    ("ctf/df_angle_rad", "<f4"),
    ("ctf/phase_shift_rad", "<f4"),
    ("alignments3D/pose", "<f4", (3,)),
    ("alignments3D/shift", "<f4", (2,)),
    ("alignments3D/psize_A", "<f4"),
    ("location/micrograph_path", "S40"),
]


@pytest.fixture
def data() -> np.ndarray:
    """Four particles as cryoSPARC's datasets hold them; the numbers are made up."""
    d = np.zeros(4, FIELDS)
    d["uid"] = [11, 22, 33, 44]
    d["blob/path"] = [b">J12/extract/b.mrc", b"J12/extract/a.mrc", b"J12/extract/a.mrc", "J12/ü.mrc".encode()]
    d["blob/idx"] = [5, 0, 1, 2]
    d["blob/shape"] = 96
    d["blob/psize_A"] = 1.31
    d["ctf/exp_group_id"] = [23, 23, 7, 23]
    d["ctf/accel_kv"] = [300, 300, 200, 300]
    d["ctf/cs_mm"] = 2.7
    d["ctf/amp_contrast"] = 0.1
    d["ctf/df1_A"] = [15301, 15000, 14000, 13000]
    d["ctf/df2_A"] = [14916, 14500, 13500, 12500]
    d["ctf/df_angle_rad"] = [0.5, -0.5, 0, 0]
    d["ctf/phase_shift_rad"] = [0, np.pi / 2, 0, 0]
    d["alignments3D/pose"] = [[0.3, -1.2, 0.7], [0, 0, 0], [0, 0, np.pi / 2], [2, 1, 0]]
    d["alignments3D/shift"] = [[2, -3], [0, 0], [0, 0], [1, 1]]
    d["alignments3D/psize_A"] = 2.62
    d["location/micrograph_path"] = b"S1/motioncorrected/m.mrc"
    return d


def save(path: Path, data: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.save(file, data)
    return path


def test_reads_paths_ctf_and_poses(tmp_path: Path, data: np.ndarray) -> None:
    table = read_cs(save(tmp_path / "p.cs", data))
    assert table.identities() == [
        "000006@J12/extract/b.mrc",
        "000001@J12/extract/a.mrc",
        "000002@J12/extract/a.mrc",
        "000003@J12/ü.mrc",
    ]
    assert table.defocus_u_angstrom.tolist() == [15301, 15000, 14000, 13000]
    assert table.defocus_v_angstrom.tolist() == [14916, 14500, 13500, 12500]
    np.testing.assert_allclose(table.astigmatism_angle_degrees, [28.6479, -28.6479, 0, 0], atol=1e-3)
    np.testing.assert_allclose(table.phase_shift_degrees, [0, 90, 0, 0], atol=1e-4)
    # the pixels of a shift are those it was found in, not those of the images
    np.testing.assert_allclose(table.shift_angstrom[0], [-5.24, 7.86], rtol=1e-6)
    a, b, c = data["alignments3D/pose"][0].astype(float)
    np.testing.assert_allclose(table.rotation[0], expm(np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])), atol=1e-6)
    assert table.micrograph_names == ("S1/motioncorrected/m.mrc",) * 4


def test_groups_by_microscope(tmp_path: Path, data: np.ndarray) -> None:
    table = read_cs(save(tmp_path / "p.cs", data))
    groups = [table.optics_groups[g] for g in table.optics_group_index]
    assert [g.voltage_kilovolt for g in groups] == [300, 300, 200, 300]
    assert len(table.optics_groups) == 2
    assert {(g.pixel_size_angstrom, g.box_size, g.amplitude_contrast) for g in groups} == {(1.31, 96, 0.1)}


def test_without_ctf_and_poses(tmp_path: Path, data: np.ndarray) -> None:
    bare = data[[name for name in data.dtype.names if name.startswith("blob")]]
    table = read_cs(save(tmp_path / "p.cs", np.array(bare.tolist(), [f for f in FIELDS if f[0].startswith("blob")])))
    assert not table.has_ctf
    assert table.rotation is None
    assert table.shift_angstrom is None
    assert table.micrograph_names is None


def test_a_file_in_the_making(tmp_path: Path, data: np.ndarray) -> None:
    whole = save(tmp_path / "w.cs", data).read_bytes()
    path = tmp_path / "p.cs"
    for size in (0, 5, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StackIncomplete, match=r"p\.cs: expected"):
            read_cs(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(StackIncomplete, match=f"found {len(whole) + 1}"):
        read_cs(path)


@pytest.mark.parametrize("missing", ["blob/path", "blob/psize_A", "ctf/cs_mm"])
def test_a_missing_column_is_named(tmp_path: Path, data: np.ndarray, missing: str) -> None:
    kept = [f for f in FIELDS if f[0] != missing]
    d = np.zeros(2, kept)
    d["blob/shape"] = 8
    with pytest.raises(ManifestMismatch, match=f"expected a column {missing}"):
        read_cs(save(tmp_path / "p.cs", d))


def test_things_that_are_no_particle_dataset(tmp_path: Path, data: np.ndarray) -> None:
    data["blob/shape"][2] = (96, 64)
    with pytest.raises(ManifestMismatch, match=r"square images, found \[96, 64\] in row 3"):
        read_cs(save(tmp_path / "p.cs", data))
    with pytest.raises(ManifestMismatch, match="structured array"):
        read_cs(save(tmp_path / "n.cs", np.zeros(3)))
    (tmp_path / "t.cs").write_text("no dataset at all")
    with pytest.raises(ManifestMismatch, match=r"t\.cs"):
        read_cs(tmp_path / "t.cs")
    (tmp_path / "c.cs").write_bytes(b"\x94CSDAT....")
    with pytest.raises(UnsupportedFormat, match="CSDAT"):
        read_cs(tmp_path / "c.cs")
    with pytest.raises(IngestError, match="moved or deleted"):
        read_cs(tmp_path / "gone.cs")


def test_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "evil.cs"
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ManifestMismatch, match="without Python objects"):
        read_cs(path)


def test_what_is_written_comes_back(tmp_path: Path, data: np.ndarray) -> None:
    table = read_cs(save(tmp_path / "p.cs", data))
    write_cs(tmp_path / "o.cs", table, rotation=table.rotation, shift_angstrom=table.shift_angstrom)
    back = read_cs(tmp_path / "o.cs")
    assert back.identities() == table.identities()
    assert back.micrograph_names == table.micrograph_names
    np.testing.assert_allclose(back.rotation, table.rotation, atol=1e-6)
    np.testing.assert_allclose(back.shift_angstrom, table.shift_angstrom, atol=1e-5)
    np.testing.assert_allclose(back.ctf_coefficients(), table.ctf_coefficients(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blob/psize_A", 0.0),
        ("blob/psize_A", np.nan),
        ("blob/shape", 0),
        ("ctf/accel_kv", -300),
        ("ctf/amp_contrast", 1.5),
        ("ctf/df1_A", np.inf),
        ("alignments3D/pose", np.nan),
        ("alignments3D/shift", 1e30),
    ],
)
def test_numbers_that_no_microscope_gives_are_refused(tmp_path, data, name, value):
    data[name][2] = value
    with pytest.raises(ManifestMismatch, match=name.split("/")[1].replace("amp_", "amplitude ").replace("_", ".")):
        read_cs(save(tmp_path / "p.cs", data))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blob/shape", ("<u4", (3,))),
        ("alignments3D/pose", ("<f4", (9,))),
        ("blob/idx", ("<f4",)),
        ("blob/path", ("<f4",)),
    ],
)
def test_columns_of_another_kind_or_shape_are_refused(tmp_path, data, name, kind):
    fields = [(f[0], *kind) if f[0] == name else f for f in FIELDS]
    with pytest.raises(ManifestMismatch, match=f"expected a column {name} of kind"):
        read_cs(save(tmp_path / "p.cs", np.ones(4, fields)))


@pytest.mark.parametrize(
    "header", [b"{'descr': (", b"(" * 3000, b"{'descr': [('a', '|O')], 'fortran_order': 1", b"\0" * 50]
)
def test_a_header_that_python_cannot_parse_is_refused(tmp_path, header):
    path = tmp_path / "p.cs"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ManifestMismatch, match="NumPy structured array"):
        read_cs(path)


@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        (b"(4L,)", nullcontext()),
        (b"(4or 4,)", pytest.raises(ManifestMismatch, match="expected a NumPy structured array")),
    ],
)
def test_what_python_says_of_a_header_is_not_printed(tmp_path: Path, data: np.ndarray, shape, answer, recwarn) -> None:
    """The first is a header of NumPy's on Python 2; warnings are errors here."""
    path = save(tmp_path / "particles.cs", data)
    whole, end = path.read_bytes(), b"(4,), }" + b" " * (len(shape) - 4)  # headers are filled up with blanks
    assert end in whole
    path.write_bytes(whole.replace(end, shape + b", }"))
    with answer:
        assert len(read_cs(path)) == 4
    assert not recwarn
