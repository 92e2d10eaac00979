import csv
import errno
import os
import subprocess
import zlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import which

import gemmi
import numpy as np
import pytest

from streamrecon.errors import CheckpointCorrupt
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.rotation import random_rotations
from streamrecon.io import PoseSpool, SpoolLength, read_star
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

GROUPS = (OpticsGroup("g1", 300, 2.7, 0.1, 2.0, 32), OpticsGroup("g 2", 200, 2.0, 0.07, 2.0, 32))


def batch(first: int, n: int) -> ParticleTable:
    return ParticleTable(
        optics_groups=GROUPS,
        stack_names=("stacks/a.mrcs",),
        optics_group_index=np.arange(n, dtype=np.int32) % 2,
        stack_number=np.zeros(n, np.int32),
        stack_index=np.arange(first, first + n, dtype=np.int32),
        defocus_u_angstrom=np.full(n, 12000, np.float32),
        defocus_v_angstrom=np.full(n, 11000, np.float32),
        astigmatism_angle_degrees=np.full(n, 15, np.float32),
        phase_shift_degrees=np.zeros(n, np.float32),
    )


def append(spool: PoseSpool, first: int, n: int, seed: int = 0) -> tuple[SpoolLength, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rotation, shift = random_rotations(rng, n), rng.normal(0, 3, (n, 2))
    rows = spool.append(
        batch(first, n),
        rotation=rotation,
        shift_angstrom=shift,
        half=np.arange(n) % 2,
        pose_weight=np.full(n, 0.75),
        effective_sample_size=np.linspace(0.2, 3.6, n),
        log_evidence=np.full(n, -1234.5),
    )
    assert rows[:, 1].sum() == spool.length.rows - rows[0, 0]
    return spool.length, rotation, shift


def test_exports_poses_as_the_map_is_published(tmp_path: Path) -> None:
    """Poses of the own frame come out turned, all else is as without."""
    turn = random_rotations(np.random.default_rng(5), 1)[0]
    at = Orientation("D2", turn, np.array([1.5, -2.0, 0.5]))
    with PoseSpool(tmp_path / "poses.txt") as spool:
        _, rotation, shift = append(spool, 0, 6, seed=1)
        assert spool.export(tmp_path / "own.star", GROUPS) == 6
        assert spool.export(tmp_path / "published.star", GROUPS, orientation=at) == 6
    own, published = read_star(tmp_path / "own.star"), read_star(tmp_path / "published.star")
    np.testing.assert_allclose(published.rotation, np.einsum("ji,njk->nik", turn, rotation), atol=1e-5)
    center = 2.0 * np.einsum("nji,j->ni", rotation, at.center)  # 2 A a pixel, seen along each view
    np.testing.assert_allclose(published.shift_angstrom, shift + center[:, :2], atol=1e-4)
    assert published.identities() == own.identities()
    last = [line.split()[-5:] for line in (tmp_path / "published.star").read_text().splitlines() if "@" in line]
    assert last == [line.split()[-5:] for line in (tmp_path / "own.star").read_text().splitlines() if "@" in line]


def test_exports_all_rows_with_relions_names(tmp_path: Path) -> None:
    with PoseSpool(tmp_path / "spool" / "poses.txt") as spool:
        _, rotation_1, shift_1 = append(spool, 0, 3, seed=1)
        length, rotation_2, shift_2 = append(spool, 3, 2, seed=2)
        assert length == spool.length
        assert (length.rows, length.visits) == (spool.path.stat().st_size, 0)
        assert spool.export(tmp_path / "out.star", GROUPS) == 5
    table = read_star(tmp_path / "out.star")
    assert table.optics_groups == GROUPS
    assert table.identities() == [f"{i:06d}@stacks/a.mrcs" for i in range(1, 6)]
    np.testing.assert_allclose(table.rotation, np.concatenate([rotation_1, rotation_2]), atol=1e-6)
    np.testing.assert_allclose(table.shift_angstrom, np.concatenate([shift_1, shift_2]), atol=1e-5)
    assert table.optics_group_index.tolist() == [0, 1, 0, 0, 1]
    block = gemmi.cif.read(str(tmp_path / "out.star"))["particles"]
    assert list(block.find_values("_rlnRandomSubset")) == ["1", "2", "1", "1", "2"]
    assert list(block.find_values("_rlnNrOfSignificantSamples"))[:3] == ["1", "2", "4"]
    assert {float(v) for v in block.find_values("_rlnMaxValueProbDistribution")} == {0.75}
    assert {float(v) for v in block.find_values("_rlnLogLikeliContribution")} == {-1234.5}


def test_a_particle_visited_again_is_exported_once_with_its_last_pose(tmp_path: Path) -> None:
    with PoseSpool(tmp_path / "poses.txt") as spool:
        append(spool, 0, 4, seed=1)
        _, rotation, _ = append(spool, 1, 2, seed=2)
        assert spool.export(tmp_path / "out.star", GROUPS) == 4
    table = read_star(tmp_path / "out.star")
    by_name = dict(zip(table.identities(), table.rotation, strict=True))
    assert len(by_name) == 4
    np.testing.assert_allclose(by_name["000002@stacks/a.mrcs"], rotation[0], atol=1e-6)
    np.testing.assert_allclose(by_name["000003@stacks/a.mrcs"], rotation[1], atol=1e-6)


def test_goes_back_to_a_checkpoint_and_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "poses.txt"
    with PoseSpool(path) as spool:
        length, _, _ = append(spool, 0, 3)
        append(spool, 3, 3)
    with path.open("ab") as torn:
        torn.write(b"000007@stacks/a.mrcs mic")
    with PoseSpool(path) as spool:
        spool.truncate(length)
        assert spool.length == length
        append(spool, 10, 1)
        assert spool.export(tmp_path / "out.star", GROUPS) == 4
    assert read_star(tmp_path / "out.star").stack_index.tolist() == [0, 1, 2, 10]


def test_no_bit_of_what_was_recorded_is_altered_unseen(tmp_path: Path) -> None:
    """And what is altered behind it is found at the next length."""
    with PoseSpool(tmp_path / "poses.rows") as spool:
        results = {"pose_weight": np.ones(3), "effective_sample_size": np.ones(3), "log_evidence": np.zeros(3)}
        poses = {"rotation": np.eye(3)[None].repeat(3, axis=0), "shift_angstrom": np.zeros((3, 2))}
        lengths = []
        for first in (0, 3):
            rows = spool.append(batch(first, 3), **poses, half=np.zeros(3, int), **results)
            spool.update(rows, **poses, **results)
            lengths.append(spool.length)
    for name in ("rows", "visits"):
        path = tmp_path / f"poses.{name}"
        good = path.read_bytes()
        crc32 = [zlib.crc32(good[: getattr(length, name)]) for length in lengths]
        assert [getattr(length, f"{name}_crc32") for length in lengths] == crc32
        for at in np.random.default_rng(0).integers(0, 8 * len(good), 200).tolist():
            altered = bytearray(good)
            altered[at // 8] ^= 1 << at % 8
            path.write_bytes(altered)
            for length in lengths:
                hit = at // 8 < getattr(length, name)
                with (
                    PoseSpool(tmp_path / "poses.rows") as spool,
                    pytest.raises(CheckpointCorrupt, match=f"{path}.*alter") if hit else nullcontext(),
                ):
                    spool.check(length)
            with PoseSpool(tmp_path / "poses.rows") as spool:
                with pytest.raises(CheckpointCorrupt):
                    spool.truncate(lengths[1])
                spool.check(SpoolLength(lengths[1].rows, lengths[1].visits))  # as earlier releases recorded it
            assert path.read_bytes() == altered
        path.write_bytes(good)
    with PoseSpool(tmp_path / "poses.rows") as spool:
        spool.truncate(SpoolLength(lengths[0].rows, lengths[0].visits))
        assert spool.length == lengths[0]


def test_a_spool_shorter_than_the_checkpoint_says(tmp_path: Path) -> None:
    with PoseSpool(tmp_path / "poses.txt") as spool:
        length, _, _ = append(spool, 0, 3)
        with pytest.raises(
            CheckpointCorrupt, match=f"expected at least the {length.rows + 1} bytes.*found {length.rows}"
        ):
            spool.truncate(SpoolLength(length.rows + 1))
        with pytest.raises(CheckpointCorrupt, match=r"expected the 1 bytes .* found it to go from 0 to 0"):
            spool.truncate(SpoolLength(length.rows, 1))


def test_an_optics_group_index_of_the_session_replaces_the_tables_own(tmp_path: Path) -> None:
    with PoseSpool(tmp_path / "poses.txt") as spool:
        spool.append(
            batch(0, 2),
            rotation=np.eye(3)[None].repeat(2, axis=0),
            shift_angstrom=np.zeros((2, 2)),
            half=np.zeros(2, int),
            pose_weight=np.ones(2),
            effective_sample_size=np.ones(2),
            log_evidence=np.zeros(2),
            optics_group_index=np.array([2, 2]),
        )
        spool.export(tmp_path / "out.star", (*GROUPS, OpticsGroup("third", 100, 1.6, 0.1, 2.0, 32)))
    table = read_star(tmp_path / "out.star")
    assert {table.optics_groups[g].name for g in table.optics_group_index} == {"third"}


@pytest.mark.relion
@pytest.mark.skipif(
    which("relion_star_printtable") is None, reason="RELION's programs are not on PATH (Debian: relion)"
)
def test_relion_reads_the_export(tmp_path: Path) -> None:
    with PoseSpool(tmp_path / "poses.txt") as spool:
        append(spool, 0, 5)
        spool.export(tmp_path / "out.star", GROUPS)
    out = subprocess.run(
        ["relion_star_printtable", "out.star", "data_particles", "rlnImageName", "rlnRandomSubset", "rlnOriginXAngst"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    table = read_star(tmp_path / "out.star")
    assert out[0::3] == table.identities()
    assert out[1::3] == ["1", "2", "1", "2", "1"]
    np.testing.assert_allclose([float(v) for v in out[2::3]], -table.shift_angstrom[:, 0], atol=1e-5)
    subprocess.run(
        ["relion_star_handler", "--i", "out.star", "--o", "again.star"], cwd=tmp_path, check=True, capture_output=True
    )
    again = read_star(tmp_path / "again.star")
    assert again.identities() == table.identities()
    np.testing.assert_allclose(again.rotation, table.rotation, atol=1e-6)


def test_a_row_is_updated_by_where_it_stands(tmp_path: Path) -> None:
    """A new row, the old one with another pose; names with blanks, micrograph, CTF and half stay as they were."""
    with PoseSpool(tmp_path / "poses.txt") as spool:
        table = batch(0, 3)
        named = replace(table, stack_names=("stacks/with blank.mrcs",), micrograph_names=("a b", "c", "d"))
        rng = np.random.default_rng(1)
        results = {"pose_weight": np.full(3, 0.5), "effective_sample_size": np.ones(3), "log_evidence": np.zeros(3)}
        rows = spool.append(
            named,
            rotation=random_rotations(rng, 3),
            shift_angstrom=np.zeros((3, 2)),
            half=np.array([0, 1, 1]),
            **results,
        )
        before = spool.length
        rotation, shift = random_rotations(rng, 2), np.array([[1.5, -2.25], [0.0, 3.0]])
        changed = {name: values[:2] + 0.25 for name, values in results.items()}
        spool.update(rows[[2, 0]], rotation=rotation, shift_angstrom=shift, inlier=np.array([0.125, 1.0]), **changed)
        assert spool.length.visits > before.visits == 0
        assert spool.export(tmp_path / "out.star", GROUPS, tmp_path / "micrographs.csv") == 3
        with pytest.raises(CheckpointCorrupt, match=r"expected a row of \d+ bytes at \d+"):
            spool.update(rows[[0]] + 1, rotation=rotation[:1], shift_angstrom=shift[:1], **{
                name: values[:1] for name, values in results.items()
            })  # fmt: skip
        spool.truncate(before)
        assert spool.export(tmp_path / "old.star", GROUPS) == 3
    found, old = read_star(tmp_path / "out.star"), read_star(tmp_path / "old.star")
    by_name = {name: i for i, name in enumerate(found.identities())}
    third, first = by_name["000003@stacks/with blank.mrcs"], by_name["000001@stacks/with blank.mrcs"]
    np.testing.assert_allclose(found.rotation[[third, first]], rotation, atol=1e-6)
    np.testing.assert_allclose(found.shift_angstrom[[third, first]], shift, atol=1e-5)
    assert [found.micrograph_names[i] for i in (first, third)] == ["a b", "d"]
    assert not old.shift_angstrom.any()
    with (tmp_path / "micrographs.csv").open() as file:
        health = list(csv.DictReader(file))
    assert [(m["micrograph"], m["particles"]) for m in health] == [("c", "1"), ("d", "1"), ("a b", "1")]
    assert [float(m["inlier_share"]) for m in health] == [1.0, 0.125, 1.0]
    assert [float(m["mean_log_evidence"]) for m in health] == [0.0, 0.25, 0.25]
    block = gemmi.cif.read(str(tmp_path / "out.star"))["particles"]
    assert float(list(block.find_values("_rlnParticleFigureOfMerit"))[third]) == 0.125
    assert list(block.find_values("_rlnRandomSubset"))[third] == "2"
    assert float(list(block.find_values("_rlnLogLikeliContribution"))[third]) == 0.25


def test_superseded_rows_go_and_the_export_stays_the_same(tmp_path: Path) -> None:
    """Also at the length that a checkpoint recorded, in a spool that was opened again."""
    with PoseSpool(tmp_path / "poses.rows") as spool:
        rng = np.random.default_rng(3)
        results = {"pose_weight": np.ones(300), "effective_sample_size": np.ones(300), "log_evidence": np.zeros(300)}
        poses = {"rotation": random_rotations(rng, 300), "shift_angstrom": np.zeros((300, 2))}
        rows = spool.append(batch(0, 300), **poses, half=np.zeros(300, int), **results)
        for sweep in range(60):
            if sweep == 50:
                recorded = spool.length
            poses = {"rotation": random_rotations(rng, 300), "shift_angstrom": np.full((300, 2), float(sweep))}
            spool.update(rows, **poses, **results)
        spool.sync()
        assert spool.export(tmp_path / "before.star", GROUPS) == 300
        size = (tmp_path / "poses.visits").stat().st_size
        assert spool.visits.compact(recorded.visits)
        assert (tmp_path / "poses.visits").stat().st_size < 0.2 * size
        assert spool.export(tmp_path / "after.star", GROUPS) == 300
        assert spool.length.visits == size
    assert (tmp_path / "before.star").read_bytes() == (tmp_path / "after.star").read_bytes()
    with PoseSpool(tmp_path / "poses.rows") as spool:
        spool.truncate(recorded)
        spool.export(tmp_path / "old.star", GROUPS)
        assert set(read_star(tmp_path / "old.star").shift_angstrom.ravel().tolist()) == {49.0}
        with pytest.raises(CheckpointCorrupt, match="to go from"):
            spool.truncate(SpoolLength(recorded.rows, recorded.visits - 1))
        spool.truncate(SpoolLength())
        assert spool.length == SpoolLength(0, 0, 0, 0)
        assert not (tmp_path / "poses.visits").read_bytes()


class TestNoRoom:
    """A disk that takes so many bytes more, and then none until it is mended."""

    @pytest.fixture
    def room(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        room = [10**9]
        real = os.write

        def write(descriptor: int, data: bytes) -> int:
            if room[0] == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = real(descriptor, data[: room[0]])
            room[0] -= written
            return written

        monkeypatch.setattr(os, "write", write)
        return room

    def test_rows_wait_and_come_in_order(self, tmp_path: Path, room: list[int]) -> None:
        with PoseSpool(tmp_path / "whole") as spool:
            for first in (0, 3, 6):
                append(spool, first, 3, seed=first)
        with PoseSpool(tmp_path / "poses") as spool:
            append(spool, 0, 3, seed=0)
            room[0] = 100  # in the middle of a row
            append(spool, 3, 3, seed=3)
            assert spool.length.rows > spool.path.stat().st_size
            append(spool, 6, 3, seed=6)
            with pytest.raises(OSError, match="No space left"):
                spool.sync()
            with pytest.raises(OSError, match="No space left"):
                spool.export(tmp_path / "out.star", GROUPS)
            room[0] = 10**9
            spool.sync()
            assert spool.length.rows == spool.path.stat().st_size
        assert (tmp_path / "poses").read_bytes() == (tmp_path / "whole").read_bytes()

    def test_what_waits_is_cut_back_too(self, tmp_path: Path, room: list[int]) -> None:
        with PoseSpool(tmp_path / "poses") as spool:
            append(spool, 0, 3)
            length = spool.length
            room[0] = 5
            append(spool, 3, 3)
            spool.truncate(length)
            room[0] = 10**9
            spool.sync()
            assert spool.length == length
            assert length.rows == spool.path.stat().st_size
