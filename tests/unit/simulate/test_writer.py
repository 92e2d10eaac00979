import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from streamrecon.cli import exit_codes
from streamrecon.cli.simulate import simulate
from streamrecon.errors import ConfigError
from streamrecon.io import check_complete, probe_stack, read_images, read_manifest, read_star, read_volume, write_volume
from streamrecon.simulate import Microscope, MicroscopeSettings, SessionWriter, writer

SETTINGS = MicroscopeSettings(pixel_size_angstrom=4.0, particles_per_micrograph=6, n_optics_groups=2, seed=1)
JOB = "Extract/job007"


@pytest.fixture(scope="module")
def microscope() -> Microscope:
    z, y, x = np.mgrid[:16, :16, :16] - 8
    return Microscope(np.exp(-(x**2 / 9 + y**2 / 4 + z**2 / 2)), SETTINGS)


@pytest.fixture
def app() -> Typer:
    app = Typer()
    app.command()(simulate)
    return app


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_lays_a_session_out_as_relion_does(tmp_path: Path, microscope: Microscope) -> None:
    root = tmp_path / "in"
    progress: list[int] = []
    assert SessionWriter(microscope, root, tmp_path / "truth").run(15, progress.append) == 15
    assert list(files(root)) == [
        *(f"{JOB}/Micrographs/mic_0000{i}{end}" for i in (1, 2, 3) for end in (".mrcs", "_extract.star")),
        f"{JOB}/particles.star",
    ]
    assert progress == [6, 12, 15]
    joined = read_manifest(root / JOB / "particles.star", root)
    truth = read_star(tmp_path / "truth" / "ground_truth.star")
    assert joined.rotation is None
    assert truth.identities()[-1] == f"000003@{JOB}/Micrographs/mic_00003.mrcs"
    assert read_star(root / JOB / "particles.star").identities() == truth.identities()
    np.testing.assert_array_equal(joined.defocus_u_angstrom, truth.defocus_u_angstrom)
    expected = np.concatenate([microscope.micrograph(i, "", "", n).images for i, n in ((0, 6), (1, 6), (2, 3))])
    np.testing.assert_array_equal(read_images(joined), expected)
    one = read_manifest(root / JOB / "Micrographs" / "mic_00002_extract.star", root)
    np.testing.assert_array_equal(read_images(one), expected[6:12])
    np.testing.assert_allclose(truth.rotation[:6], microscope.micrograph(0, "", "").table.rotation, atol=1e-6)


def test_lays_a_session_out_as_cryosparc_does(tmp_path: Path, microscope: Microscope) -> None:
    root = tmp_path / "in"
    SessionWriter(microscope, root, tmp_path / "truth", file_format="cs").run(12)
    table = read_manifest(root / "J7/extract/mic_00002_particles.cs", root)
    np.testing.assert_array_equal(read_images(table), microscope.micrograph(1, "", "").images)
    assert {g.box_size for g in table.optics_groups} == {16}
    assert not list(root.rglob("*.star"))


def test_the_rate_changes_when_not_what(tmp_path: Path, microscope: Microscope) -> None:
    now = 0.0
    seen: list[tuple[float, int]] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    SessionWriter(
        microscope, tmp_path / "slow", tmp_path / "t1", particles_per_second=4, sleep=sleep, clock=lambda: now
    ).run(15, lambda done: seen.append((now, done)))
    SessionWriter(microscope, tmp_path / "fast", tmp_path / "t2").run(15)
    assert files(tmp_path / "slow") == files(tmp_path / "fast")
    assert files(tmp_path / "t1") == files(tmp_path / "t2")
    assert now == pytest.approx(15 / 4)
    # two images at a time: no more than the rate allows, plus the chunk in hand
    assert all(done <= 4 * when + 2 for when, done in seen)
    assert [done for _, done in seen] == [2, 4, 6, 8, 10, 12, 14, 15]


def test_an_interrupt_leaves_whole_files_only(tmp_path: Path, microscope: Microscope) -> None:
    root = tmp_path / "in"

    def interrupt(done: int) -> None:
        if done > 8:
            raise KeyboardInterrupt

    writer = SessionWriter(
        microscope, root, tmp_path / "truth", particles_per_second=4, sleep=lambda _: None, clock=lambda: 0.0
    )
    with pytest.raises(KeyboardInterrupt):
        writer.run(100, interrupt)
    assert list(files(root)) == [
        f"{JOB}/Micrographs/mic_00001.mrcs",
        f"{JOB}/Micrographs/mic_00001_extract.star",
        f"{JOB}/particles.star",
    ]
    check_complete(probe_stack(root / JOB / "Micrographs/mic_00001.mrcs"))
    assert len(read_star(root / JOB / "particles.star")) == 6
    assert len(read_star(tmp_path / "truth/ground_truth.star")) >= 6


@pytest.mark.parametrize(("after", "stacks"), [(0, 0), (5, 0), (6, 1), (8, 1), (12, 2)])
def test_told_to_stop_it_leaves_whole_stacks_with_their_rows(
    tmp_path: Path, microscope: Microscope, after: int, stacks: int
) -> None:
    root, done = tmp_path / "in", [0]
    writer = SessionWriter(
        microscope, root, tmp_path / "truth", particles_per_second=2, sleep=lambda _: None, clock=lambda: 0.0
    )
    assert writer.run(100, done.append, lambda: done[-1] >= after) == 6 * stacks
    found = sorted((root / JOB / "Micrographs").glob("*.mrcs"))
    assert [probe_stack(stack).nz for stack in found] == [6] * stacks
    assert all(stack.with_name(f"{stack.stem}_extract.star").exists() for stack in found)
    joined = root / JOB / "particles.star"
    assert (len(read_star(joined)) if joined.exists() else 0) == 6 * stacks


@pytest.mark.parametrize(
    ("moment", "turn"),
    [("write_star", 3), ("row_texts", 5), ("row_texts", 6)],
    ids=["a manifest is there", "the truth is told", "the stack is joined"],
)
def test_ctrl_c_at_any_moment_leaves_every_stack_with_what_names_it(
    tmp_path: Path, app: Typer, monkeypatch: pytest.MonkeyPatch, moment: str, turn: int
) -> None:
    """A signal comes between any two steps: a stack must not go when its manifest is there, nor be left unjoined."""
    step, turns = getattr(writer, moment), []

    def interrupted(*args: object, **options: object) -> object:
        done = step(*args, **options)
        turns.append(moment)
        if len(turns) == turn:
            os.kill(os.getpid(), signal.SIGINT)
        return done

    monkeypatch.setattr(writer, moment, interrupted)
    z, y, x = np.mgrid[:16, :16, :16] - 8
    write_volume(tmp_path / "map.mrc", np.exp(-(x**2 / 9 + y**2 / 4 + z**2 / 2)), 4.0)
    out = tmp_path / "in"
    arguments = f"{out} --map {tmp_path / 'map.mrc'} --box 16 --pixel-size 4 --micrographs-of 5 --particles 9999"
    assert CliRunner().invoke(app, arguments.split()).exit_code == exit_codes.INTERRUPTED
    stacks = sorted(out.rglob("*.mrcs"))
    assert len(stacks) >= 2
    assert sorted(read_manifest(out / JOB / "particles.star", out).stack_names) == [str(s) for s in stacks]
    assert sorted(out.rglob("*_extract.star")) == [s.with_name(f"{s.stem}_extract.star") for s in stacks]
    truth = set(read_star(tmp_path / "in-truth" / "ground_truth.star").identities())
    assert truth >= set(read_star(out / JOB / "particles.star").identities())


def test_the_joined_manifest_grows(tmp_path: Path, microscope: Microscope) -> None:
    root = tmp_path / "in"
    lengths = set()

    def look(_: int) -> None:
        if (root / JOB / "particles.star").exists():
            lengths.add(len(read_star(root / JOB / "particles.star")))

    SessionWriter(microscope, root, tmp_path / "truth").run(6 * 45, look)
    assert lengths == {120, 240}
    assert len(read_star(root / JOB / "particles.star")) == 270


def test_folders_that_would_be_a_mistake(tmp_path: Path, microscope: Microscope) -> None:
    with pytest.raises(ConfigError, match="taken for input"):
        SessionWriter(microscope, tmp_path / "in", tmp_path / "in" / "truth")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "x").touch()
    with pytest.raises(ConfigError, match="empty or new folder"):
        SessionWriter(microscope, tmp_path / "old", tmp_path / "truth")


def test_the_command_writes_what_the_library_does(tmp_path: Path, app: Typer) -> None:
    fixture = Path(__file__).parents[2] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"
    out = tmp_path / "in"
    arguments = f"{out} --map {fixture} --particles 12 --box 32 --pixel-size 7.08"
    arguments += " --seed 4 --snr 0.3 --micrographs-of 5"
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    assert "12 particles" in result.output
    volume, voxel_size = read_volume(tmp_path / "in-truth" / "truth.mrc")
    assert voxel_size == 7.08
    settings = replace(
        SETTINGS, pixel_size_angstrom=7.08, seed=4, snr=0.3, particles_per_micrograph=5, n_optics_groups=2
    )
    images = read_images(read_manifest(out / JOB / "particles.star", out))
    np.testing.assert_array_equal(images[5:10], Microscope(volume, settings).micrograph(1, "", "").images)


def test_the_command_refuses_two_specimens_and_odd_boxes(tmp_path: Path, app: Typer) -> None:
    for arguments, message in (
        (["--model", "a.pdb", "--map", "b.mrc"], "leave one out"),
        (["--box", "33"], "use 34"),
    ):
        result = CliRunner().invoke(app, [str(tmp_path / "in"), *arguments])
        assert result.exit_code == exit_codes.CONFIG
        assert message in " ".join(result.output.split())
    assert not (tmp_path / "in").exists()
