from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamrecon.errors import ManifestMismatch, StackIncomplete, UnsupportedFormat
from streamrecon.io import (
    check_consistent,
    check_same_sampling,
    check_stack,
    fill_box_size,
    identity_of,
    probe_stack,
    read_images,
    read_manifest,
    write_stack,
)
from streamrecon.optics.group import OpticsGroup


def manifest(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{name} 1.5\n" for name in names)
    path.write_text(f"data_\nloop_\n_rlnImageName\n_rlnPixelSize\n{rows}")
    return path


def stack(path: Path, n: int = 3, box: int = 4, value: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.arange(n, dtype=np.float32)[:, None, None] + np.zeros((n, box, box), np.float32)
    write_stack(path, images + value, 1.5)
    return path


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("root/Extract/job7/s.mrcs", "s.mrcs"),  # beside the manifest
        ("root/Extract/job7/m/s.mrcs", "m/s.mrcs"),
        ("root/Extract/job7/m/s.mrcs", "Extract/job7/m/s.mrcs"),  # relative to the project, which is root
        ("root/Extract/job7/m/s.mrcs", "./Extract/../Extract/job7/m/s.mrcs"),
        ("root/job7/m/s.mrcs", "root/job7/m/s.mrcs"),  # the project is above root
        ("root/Extract/job7/s.mrcs", "elsewhere/s.mrcs"),  # last resort: the bare name
        ("root/Extract/job7/s.mrcs", "/data/of/another/host/s.mrcs"),
    ],
)
def test_finds_the_stack(tmp_path: Path, where: str, name: str) -> None:
    path = stack(tmp_path / where)
    table = read_manifest(manifest(tmp_path / "root/Extract/job7/particles.star", f"1@{name}"), tmp_path / "root")
    assert table.stack_names == (str(path),)


def test_the_nearest_stack_wins(tmp_path: Path) -> None:
    near, _ = stack(tmp_path / "a/s.mrcs"), stack(tmp_path / "s.mrcs")
    assert read_manifest(manifest(tmp_path / "a/p.star", "1@s.mrcs"), tmp_path).stack_names == (str(near),)


def test_an_absolute_name_inside_the_root(tmp_path: Path) -> None:
    path = stack(tmp_path / "x/s.mrcs")
    assert read_manifest(manifest(tmp_path / "p.star", f"1@{path}"), tmp_path).stack_names == (str(path),)


def test_a_stack_that_is_not_there_yet_keeps_its_first_candidate(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path / "a/p.star", "1@b/s.mrcs"), tmp_path)
    assert table.stack_names == (str(tmp_path / "a/b/s.mrcs"),)


@pytest.mark.parametrize("name", ["../../outside/s.mrcs", "/outside/s.mrcs", "../root2/s.mrcs"])
def test_a_name_that_leads_out_of_the_root_is_refused(tmp_path: Path, name: str) -> None:
    stack(tmp_path / "outside/s.mrcs")
    stack(tmp_path / "root2/s.mrcs")
    with pytest.raises(ManifestMismatch, match="leads out of it"):
        read_manifest(manifest(tmp_path / "root/p.star", f"1@{name}"), tmp_path / "root")


def test_a_link_inside_the_root_may_point_anywhere(tmp_path: Path) -> None:
    stack(tmp_path / "storage/s.mrcs", value=7)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/data").symlink_to(tmp_path / "storage")
    table = read_manifest(manifest(tmp_path / "root/p.star", "1@data/s.mrcs"), tmp_path / "root")
    assert table.stack_names == (str(tmp_path / "root/data/s.mrcs"),)
    assert read_images(table).mean() == 7


def test_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match=r"found \.txt"):
        read_manifest(tmp_path / "p.txt", tmp_path)


def test_identity_is_relative_and_counts_from_one(tmp_path: Path) -> None:
    assert identity_of(tmp_path / "a" / "s.mrcs", tmp_path, 0) == "000001@a/s.mrcs"
    assert identity_of(str(tmp_path) + "/a/../s.mrcs", tmp_path, 11) == "000012@s.mrcs"


def test_reads_images_in_the_tables_order(tmp_path: Path) -> None:
    stack(tmp_path / "a.mrcs", value=10)
    stack(tmp_path / "b.mrcs", value=20)
    path = manifest(tmp_path / "p.star", "3@b.mrcs", "1@a.mrcs", "1@b.mrcs", "2@a.mrcs")
    table = read_manifest(path, tmp_path)
    assert read_images(table)[:, 0, 0].tolist() == [22, 10, 20, 11]
    assert read_images(table.select(np.array([3, 0])))[:, 0, 0].tolist() == [11, 22]
    stack(tmp_path / "a.mrcs", box=6)
    with pytest.raises(ManifestMismatch, match="one box size"):
        read_images(table)


def test_a_stack_must_hold_what_the_manifest_asks_for(tmp_path: Path) -> None:
    path = stack(tmp_path / "a.mrcs", n=3, box=4)
    table = read_manifest(manifest(tmp_path / "p.star", "1@a.mrcs", "3@a.mrcs"), tmp_path)
    check_stack(table, "p.star", probe_stack(path))
    check_stack(fill_box_size(table, 4), "p.star", probe_stack(path))
    with pytest.raises(ManifestMismatch, match=r"p\.star: expected images of 8 pixels.*found 4"):
        check_stack(fill_box_size(table, 8), "p.star", probe_stack(path))
    stack(path, n=2)
    with pytest.raises(StackIncomplete, match=r"at least 3 images.*found 2"):
        check_stack(table, "p.star", probe_stack(path))
    stack(path, n=3, box=5)
    with pytest.raises(ManifestMismatch, match="even number of pixels"):
        check_stack(table, "p.star", probe_stack(path))


def test_fills_only_the_unknown_box(tmp_path: Path) -> None:
    stack(tmp_path / "a.mrcs")
    table = fill_box_size(read_manifest(manifest(tmp_path / "p.star", "1@a.mrcs"), tmp_path), 4)
    assert [g.box_size for g in table.optics_groups] == [4]
    assert [g.box_size for g in fill_box_size(table, 6).optics_groups] == [4]


def test_mixed_sampling_is_refused_with_both_names(tmp_path: Path) -> None:
    group = OpticsGroup("g", 300, 2.7, 0.1, 1.5, 64)
    check_same_sampling("1.star", group, "2.star", replace(group, pixel_size_angstrom=1.5005, box_size=0))
    with pytest.raises(ManifestMismatch, match=r"2\.star: expected 1\.5 angstrom.*1\.star.*found 1\.6"):
        check_same_sampling("1.star", group, "2.star", replace(group, pixel_size_angstrom=1.6))
    with pytest.raises(ManifestMismatch, match=r"2\.star: expected a box of 64.*1\.star.*found 96"):
        check_same_sampling("1.star", group, "2.star", replace(group, box_size=96))
    table = read_manifest(manifest(tmp_path / "p.star", "1@a.mrcs"), tmp_path)
    unused = replace(table, optics_groups=(*table.optics_groups, group))
    check_consistent("1.star", table, "2.star", unused)
    mixed = replace(unused, optics_group_index=np.array([1], np.int32))
    check_consistent("2.star", mixed, "2.star", mixed)
    both = replace(
        table, optics_groups=(group, replace(group, pixel_size_angstrom=2.0)), optics_group_index=np.array([0, 1])
    )
    with pytest.raises(ManifestMismatch, match="one pixel size"):
        check_consistent("2.star", both, "2.star", both)


def test_a_name_longer_than_any_path_is_waited_for_like_any_other(tmp_path):
    star = tmp_path / "p.star"
    name = "x" * 5000 + ".mrcs"
    star.write_text(f"data_\nloop_\n_rlnImageName #1\n_rlnImagePixelSize #2\n000001@{name} 1.5\n")
    assert read_manifest(star, tmp_path).stack_names == (str(tmp_path / name),)
