"""A set that another program made, reconstructed from a random start: `python -m benchmarks.relion_set`.

relion_project makes beta-galactosidase particles (D2, 64 pixels of 3.54 angstrom, with CTF and white noise); we
reconstruct them in one pass without any reference, in C1. relion_reconstruct says what our poses are worth beside
the true ones, which are the ceiling. RELION's noise is the same at every run: one seed is one set.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from shutil import which
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from streamrecon.assess.align import FscCurve, align_volumes, fsc_between
from streamrecon.compare.poses import PoseErrors, pose_errors
from streamrecon.fourier.shells import first_shell_below
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.observation import soft_sphere
from streamrecon.io import read_sections, read_star, read_volume, write_star, write_volume
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

PIXEL_SIZE = 3.54
N_SYMMETRIC = 4  # the order of D2
PROGRAMS = ("relion_project", "relion_reconstruct")
_MAP = Path(__file__).parents[1] / "tests" / "fixtures" / "beta_galactosidase_64_3.54A.mrc"
_MASK_RADIUS, _MASK_EDGE = 23.0, 5.0  # pixels; beyond it our map is empty and RELION's is full of noise
_CALIBRATION = 200
_SETTLED = 2500  # images that the default annealing takes on a set like this


def missing_programs() -> list[str]:
    """Return those of RELION's programs that are not on PATH."""
    return [name for name in PROGRAMS if which(name) is None]


def relion(folder: Path, *arguments: str) -> None:
    """Run one of RELION's programs in a folder; what it says is shown if it fails."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")


def make_set(folder: Path, particles: int, snr: float, seed: int) -> ParticleTable:
    """Let RELION make particles.star, particles.mrcs and, from the fixture, map.mrc; return the truth.

    Parameters
    ----------
    snr : float
        Mean variance of the signal over the box by the variance of the white noise.
    seed : int
        Of poses and defocus.
    """
    volume, _ = read_volume(_MAP)
    return project(folder, volume, PIXEL_SIZE, particles, snr, seed)


def project(
    folder: Path, volume: NDArray[np.float32], pixel_size: float, particles: int, snr: float, seed: int
) -> ParticleTable:
    """Let RELION make particles.star and particles.mrcs of a map, written as map.mrc; return the truth.

    Parameters
    ----------
    volume : ndarray, (box,)*3 float32
    pixel_size : float, angstrom
    snr, seed
        As `make_set` has them.
    """
    rng = np.random.default_rng(seed)
    # RELION does not read float16
    write_volume(folder / "map.mrc", volume, pixel_size)
    defocus = rng.uniform(10_000.0, 25_000.0, particles)
    truth = ParticleTable(
        optics_groups=(OpticsGroup("opticsGroup1", 300.0, 2.7, 0.1, pixel_size, len(volume)),),
        stack_names=("particles.mrcs",),
        optics_group_index=np.zeros(particles, np.int32),
        stack_number=np.zeros(particles, np.int32),
        stack_index=np.arange(particles, dtype=np.int32),
        defocus_u_angstrom=(defocus + 150.0).astype(np.float32),
        defocus_v_angstrom=(defocus - 150.0).astype(np.float32),
        astigmatism_angle_degrees=rng.uniform(-90.0, 90.0, particles).astype(np.float32),
        phase_shift_degrees=np.zeros(particles, np.float32),
        rotation=random_rotations(rng, particles).astype(np.float32),
        shift_angstrom=rng.normal(0.0, 5.0, (particles, 2)).astype(np.float32),
    )
    # --pad 4: RELION's trilinear slices at 2 are not as good as its particles should be
    projected = ("relion_project", "--i", "map.mrc", "--ctf", "--angpix", str(pixel_size), "--pad", "4")
    write_poses(folder / "few.star", truth.select(slice(0, _CALIBRATION)))
    relion(folder, *projected, "--ang", "few.star", "--o", "few")
    clean = read_sections(folder / "few.mrcs", np.arange(min(_CALIBRATION, particles)))
    deviation = float(np.sqrt(clean.var(axis=(1, 2)).mean() / snr))
    write_poses(folder / "poses.star", truth)
    relion(
        folder, *projected, "--ang", "poses.star", "--o", "particles", "--add_noise", "--white_noise",
        f"{deviation:.6f}",
    )  # fmt: skip
    for name in ("few.star", "few.mrcs", "poses.star"):
        (folder / name).unlink()
    return truth


def write_poses(path: Path, table: ParticleTable) -> None:
    """Write a table with the poses it holds."""
    write_star(path, table, rotation=table.rotation, shift_angstrom=table.shift_angstrom)


def relion_reconstruct(folder: Path, star: Path, out: Path, *options: str) -> NDArray[np.float32]:
    """Return the map that RELION makes of the poses in a STAR file; ``folder`` is where its stacks' names start."""
    relion(folder, "relion_reconstruct", "--i", str(star), "--o", str(out), "--ctf", *options)
    return read_volume(out)[0]


def masked_fsc(volume_1: NDArray[np.float32], volume_2: NDArray[np.float32]) -> FscCurve:
    """Correlate two maps under one soft sphere."""
    mask = soft_sphere(len(volume_1), _MASK_RADIUS, _MASK_EDGE, dimensions=3)
    return fsc_between(volume_1, volume_2, PIXEL_SIZE, mask)


def shells_to(resolution_angstrom: float, box_size: int) -> slice:
    """Return the shells from 1 to a resolution, that one included."""
    return slice(1, int(box_size * PIXEL_SIZE / resolution_angstrom) + 1)


def poses_of(truth: ParticleTable, exported: ParticleTable, rows: slice = slice(None)) -> PoseErrors:
    """Compare exported poses, in any order, with the truth; ``rows`` of the set."""
    order = np.argsort(exported.stack_index)
    if truth.rotation is None or exported.rotation is None or len(exported) != len(truth):
        raise ValueError(f"expected {len(truth)} particles with poses, found {len(exported)}")
    return pose_errors(truth.rotation[rows], exported.rotation[order][rows], n_symmetric=N_SYMMETRIC)


def reconstruct(folder: Path, star: Path, out: Path, *options: str) -> float:
    """Run the verb; return its wall time in seconds, the program's start included."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "streamrecon", "reconstruct", str(star), "--output", str(out), *options]
    subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(
    particles: Annotated[int, typer.Option(min=1000, help="How many particles RELION makes.")] = 6000,
    snr: Annotated[float, typer.Option(help="Signal variance over noise variance.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of poses, defocus and our random start.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="Keep set and maps in this folder; else they are deleted.")
    ] = None,
) -> None:
    """Reconstruct a set made by relion_project from a random start, and measure it against RELION and the truth."""
    if missing := missing_programs():
        typer.echo(f"not on PATH: {', '.join(missing)}; install RELION (Debian: relion)", err=True)
        raise typer.Exit(2)
    with ExitStack() as stack:
        folder = (output or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        Console().print(_measure(folder, particles, snr, seed))


def _measure(folder: Path, particles: int, snr: float, seed: int) -> Table:
    truth = make_set(folder, particles, snr, seed)
    star = folder / "particles.star"
    # the first use of a kernel compiles it: not part of the figure
    reconstruct(folder, star, folder / "warm", "--limit", "200")
    seconds = reconstruct(folder, star, folder / "ours", "--seed", str(seed))
    exported_star = folder / "ours" / "particles.star"
    exported = read_star(exported_star)
    all_poses = poses_of(truth, exported)
    late = poses_of(truth, exported, slice(_SETTLED, None)) if particles > _SETTLED else None

    source = read_volume(folder / "map.mrc")[0]
    ours, half_a, half_b = (read_volume(folder / "ours" / f"{name}.mrc")[0] for name in ("volume", "half_a", "half_b"))
    aligned = align_volumes(source, ours, PIXEL_SIZE)
    to_source = fsc_between(source, aligned.volume, PIXEL_SIZE)
    between = fsc_between(half_a, half_b, PIXEL_SIZE)
    reported = shells_to(between.resolution_0143_angstrom, len(ours))

    theirs = relion_reconstruct(folder, exported_star, folder / "relion_our_poses.mrc")
    theirs_to_source = fsc_between(source, align_volumes(source, theirs, PIXEL_SIZE).volume, PIXEL_SIZE)
    reconstruct(folder, exported_star, folder / "given", "--given-poses")
    given = read_volume(folder / "given" / "volume.mrc")[0]
    stream_fsc, given_fsc = masked_fsc(ours, theirs).fsc, masked_fsc(given, theirs).fsc
    ceiling = fsc_between(source, relion_reconstruct(folder, star, folder / "relion_true_poses.mrc"), PIXEL_SIZE)

    table = Table(title=f"beta-galactosidase, relion_project, {particles} particles, SNR {snr:g}, seed {seed}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    rows = {
        f"seconds, one pass, random start, C1 ({os.cpu_count()} cores)": f"{seconds:.1f}",
        "images/s, start of the program included": f"{particles / seconds:.0f}",
        "median pose error, all": f"{all_poses.median_degrees:.2f} degrees",
        f"median pose error, from image {_SETTLED} on": f"{late.median_degrees:.2f} degrees" if late else "-",
        "poses within 15 degrees, all": f"{all_poses.share_within(15):.1%}",
        "hand": "mirrored" if all_poses.mirrored else "true",
        "reported: FSC 0.143 between halves": f"{between.resolution_0143_angstrom:.2f} A",
        "our map to the source: FSC 0.5": f"{to_source.resolution_05_angstrom:.2f} A",
        "relion_reconstruct, our poses, to the source: FSC 0.5": f"{theirs_to_source.resolution_05_angstrom:.2f} A",
        "relion_reconstruct, true poses, to the source: FSC 0.5": f"{ceiling.resolution_05_angstrom:.2f} A",
        f"our map to relion_reconstruct with our poses: FSC at shell {reported.stop - 1}, as reported": (
            f"{stream_fsc[reported.stop - 1]:.3f}"
        ),
        "the same: last shell above 0.9": f"{first_shell_below(stream_fsc, 0.9) - 1}",
        "reconstruct --given-poses to it: lowest FSC up to the reported resolution": f"{given_fsc[reported].min():.3f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


if __name__ == "__main__":
    typer.run(main)
