"""RELION as the other opinion on every convention: rotation, shift, CTF, and the files that carry them."""

import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import copy, which

import numpy as np
import pytest

from streamrecon.io import (
    PoseSpool,
    normalize_background,
    read_images,
    read_manifest,
    read_sections,
    read_star,
    read_volume,
    write_star,
    write_volume,
)
from streamrecon.particles import ParticleTable
from streamrecon.simulate import Microscope, MicroscopeSettings, Projector, SessionWriter, density_from_map

FIXTURES = Path(__file__).parents[1] / "fixtures"
MAP = FIXTURES / "beta_galactosidase_64_3.54A.mrc"
PIXEL = 3.54
pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(which("relion_project") is None, reason="RELION's programs are not on PATH (Debian: relion)"),
]


def relion(folder: Path, *arguments: str) -> None:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of each pair of images, (n,)."""
    a, b = (x.reshape(len(x), -1) - x.mean(axis=(1, 2))[:, None] for x in (a, b))
    return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return read_volume(MAP)[0]


def relion_images(folder: Path, volume: np.ndarray, table: ParticleTable, *, ctf: bool) -> np.ndarray:
    write_volume(folder / "map.mrc", volume, PIXEL)
    write_star(folder / "poses.star", table, rotation=table.rotation, shift_angstrom=table.shift_angstrom)
    # --pad 4: at its default of 2, RELION's trilinear slices are the larger error (correlation 0.9994)
    command = "relion_project --i map.mrc --ang poses.star --o out --pad 4"
    relion(folder, *command.split(), "--angpix", str(PIXEL), *(["--ctf"] if ctf else []))
    return read_sections(folder / "out.mrcs", np.arange(len(table)))


@pytest.fixture(scope="module")
def tables(volume: np.ndarray) -> list[ParticleTable]:
    """Particles of two optics groups with strong astigmatism, phase shift and displacement."""
    settings = MicroscopeSettings(
        pixel_size_angstrom=PIXEL,
        particles_per_micrograph=8,
        snr=np.inf,
        n_optics_groups=2,
        astigmatism_angstrom=4000.0,
        phase_shift_degrees=35.0,
        shift_sigma_angstrom=12.0,
    )
    microscope = Microscope(volume, settings)
    tables = [microscope.micrograph(i, "x.mrcs", "m.mrc").table for i in (0, 1)]
    # an angle whose mirror image is another axis
    return [replace(t, astigmatism_angle_degrees=np.full(len(t), 35, np.float32)) for t in tables]


def test_projections_are_relions_pixel_by_pixel(
    tmp_path: Path, volume: np.ndarray, tables: list[ParticleTable]
) -> None:
    for table in tables:
        theirs = relion_images(tmp_path, volume, table, ctf=False)
        ours = Projector(volume, PIXEL).project(table.rotation, table.shift_angstrom)
        assert correlation(ours, theirs).min() > 0.9999
        scale = (ours * theirs).sum() / (ours * ours).sum()
        assert np.abs(theirs - scale * ours).max() < 0.02 * np.abs(ours).max()


def test_the_ctf_is_relions_pixel_by_pixel(tmp_path: Path, volume: np.ndarray, tables: list[ParticleTable]) -> None:
    for table in tables:
        theirs = relion_images(tmp_path, volume, table, ctf=True)
        projector = Projector(volume, PIXEL)
        ours = projector.project(table.rotation, table.shift_angstrom, table.ctf_coefficients())
        left = 1 - correlation(ours, theirs).min()
        assert left < 1e-4
        # each of these mistakes leaves far more
        turned = replace(table, astigmatism_angle_degrees=-table.astigmatism_angle_degrees)
        no_plate = replace(table, phase_shift_degrees=0 * table.phase_shift_degrees)
        mirrored = projector.project(table.rotation.transpose(0, 2, 1), table.shift_angstrom, table.ctf_coefficients())
        away = projector.project(table.rotation, -table.shift_angstrom, table.ctf_coefficients())
        for wrong in (
            projector.project(table.rotation, table.shift_angstrom, turned.ctf_coefficients()),
            projector.project(table.rotation, table.shift_angstrom, no_plate.ctf_coefficients()),
            mirrored,
            away,
        ):
            assert 1 - correlation(wrong, theirs).mean() > 20 * left


def fsc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    n = len(a)
    f = np.fft.fftfreq(n) * n
    shell = np.rint(np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)).astype(int).ravel()
    x, y = np.fft.fftn(a), np.fft.fftn(b)

    def per_shell(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values.ravel())[: n // 2]

    return per_shell((x * y.conj()).real) / np.sqrt(per_shell(abs(x) ** 2) * per_shell(abs(y) ** 2))


def test_relion_reconstructs_a_simulated_session_from_its_truth(tmp_path: Path) -> None:
    volume = density_from_map(MAP, 32, 2 * PIXEL)
    settings = MicroscopeSettings(pixel_size_angstrom=2 * PIXEL, snr=0.5, n_optics_groups=2, seed=3)
    SessionWriter(Microscope(volume, settings), tmp_path / "in", tmp_path / "truth").run(400)
    relion(tmp_path / "in", "relion_reconstruct", "--i", "../truth/ground_truth.star", "--o", "../map.mrc", "--ctf")
    found, voxel_size = read_volume(tmp_path / "map.mrc")
    assert voxel_size == pytest.approx(2 * PIXEL)
    curve = fsc(found, volume)
    assert curve[1:10].min() > 0.9
    assert fsc(found[:, :, ::-1], volume)[3:10].mean() < 0.8


def test_relion_reconstructs_an_exported_spool(tmp_path: Path) -> None:
    """What the daemon exports is a RELION job's input as it stands, half-sets included."""
    volume = density_from_map(MAP, 32, 2 * PIXEL)
    settings = MicroscopeSettings(pixel_size_angstrom=2 * PIXEL, snr=1.0, n_optics_groups=2, seed=3)
    microscope = Microscope(volume, settings)
    SessionWriter(microscope, tmp_path, tmp_path.with_name(tmp_path.name + "-truth")).run(300)
    with PoseSpool(tmp_path / "poses.txt") as spool:
        for number in range(6):
            table = microscope.micrograph(number, f"Extract/job007/Micrographs/mic_{number + 1:05d}.mrcs", "m").table
            n = len(table)
            spool.append(
                table,
                rotation=table.rotation,
                shift_angstrom=table.shift_angstrom,
                half=np.arange(n) % 2,
                pose_weight=np.ones(n),
                effective_sample_size=np.ones(n),
                log_evidence=np.zeros(n),
            )
        spool.export(tmp_path / "poses.star", microscope.optics_groups)
    for subset in ("1", "2"):
        relion(
            tmp_path, "relion_reconstruct", "--i", "poses.star", "--o", f"half{subset}.mrc", "--ctf", "--subset", subset
        )
    halves = [read_volume(tmp_path / f"half{s}.mrc")[0] for s in "12"]
    assert not np.allclose(*halves)
    for half in halves:
        assert fsc(half, volume)[1:8].min() > 0.85


def test_real_particles_match_what_relion_makes_of_them(tmp_path: Path) -> None:
    """Read 50 real particles with their poses: projections of RELION's map of them look like them."""
    for name in ("atp_synthase.star", "atp_synthase.mrcs"):
        copy(FIXTURES / name, tmp_path / name)
    relion(tmp_path, "relion_reconstruct", "--i", "atp_synthase.star", "--o", "map.mrc", "--ctf", "--maxres", "30")
    volume, voxel_size = read_volume(tmp_path / "map.mrc")
    table = read_manifest(tmp_path / "atp_synthase.star", tmp_path)
    images = normalize_background(read_images(table), 50)
    projector = Projector(volume, voxel_size)
    right = correlation(projector.project(table.rotation, table.shift_angstrom, table.ctf_coefficients()), images)
    away = correlation(projector.project(table.rotation, -table.shift_angstrom, table.ctf_coefficients()), images)
    wrong = correlation(
        projector.project(table.rotation.transpose(0, 2, 1), table.shift_angstrom, table.ctf_coefficients()), images
    )
    assert right.mean() > 2 * away.mean()
    assert right.mean() > 2 * wrong.mean()
    assert read_star(tmp_path / "atp_synthase.star").stack_names == ("atp_synthase.mrcs",)
