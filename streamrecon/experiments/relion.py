"""RELION's own program on the same images, where it is installed: a row of the table, and no part of the product."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamrecon.experiments.measures import score_map
from streamrecon.experiments.problem import Problem
from streamrecon.experiments.store import Result
from streamrecon.io import read_volume, write_stack, write_star
from streamrecon.particles import ParticleTable

PROGRAM = "relion_refine"
_POLL_SECONDS = 0.5
_KILL_SECONDS = 10.0


def run_relion(p: Any, problem: Problem, stop: Callable[[], bool]) -> Result | None:
    """Run RELION's initial model (its SGD, or its EM from the same program) until it ends or its time is up.

    A machine without RELION gives a row that says so.
    """
    program = shutil.which(PROGRAM)
    row: dict[str, Any] = {"method": f"relion_{p['mode']}", "images": p["images"], "ended": "not installed"}
    if program is None:
        return Result([row])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_particles(problem, p["images"], folder)
        command = [program, *arguments(p, problem)]
        ended, seconds, cpu = _watched(command, folder, float(p["limit_seconds"]), stop)
        if ended is None:
            return None
        row |= {"ended": ended, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
        maps = sorted(folder.glob("out_it*_class001.mrc"))
        row["iterations"] = max(0, len(maps) - 1)
        if not maps:
            return Result([row])
        volume = read_volume(maps[-1])[0]
        if not np.isfinite(volume).all() or np.ptp(volume) == 0:
            return Result([{**row, "ended": f"{ended}; the map is not finite"}])
        score = score_map(problem.truth, volume.astype(np.float32), problem.pixel_size_angstrom)
        row |= {
            "fsc_05_angstrom": round(score.fsc_05_angstrom, 2),
            "fsc_0143_angstrom": round(score.fsc_0143_angstrom, 2),
            "fsc": [round(float(v), 4) for v in score.fsc],
        }
        return Result([row], {"map": score.volume})


def write_particles(problem: Problem, images: int, folder: Path) -> None:
    """Write the images as RELION reads them: ``particles.star`` and ``particles.mrcs``, protein white, no poses."""
    batches = list(problem.batches(images))
    tables = [b.table for b in batches]
    first = tables[0]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(t, name) for t in tables])

    n = sum(len(t) for t in tables)
    table = ParticleTable(
        optics_groups=first.optics_groups,
        stack_names=("particles.mrcs",),
        optics_group_index=joined("optics_group_index"),
        stack_number=np.zeros(n, np.int32),
        stack_index=np.arange(n, dtype=np.int32),
        defocus_u_angstrom=joined("defocus_u_angstrom"),
        defocus_v_angstrom=joined("defocus_v_angstrom"),
        astigmatism_angle_degrees=joined("astigmatism_angle_degrees"),
        phase_shift_degrees=joined("phase_shift_degrees"),
        micrograph_names=tuple(m for t in tables for m in (t.micrograph_names or ())),
    )
    write_stack(folder / "particles.mrcs", np.concatenate([b.images for b in batches]), problem.pixel_size_angstrom)
    write_star(folder / "particles.star", table, rotation=None, shift_angstrom=None)


def arguments(p: Any, problem: Problem) -> list[str]:
    """Return what RELION is called with; its defaults, but for the number of iterations."""
    diameter = 2.0 * problem.geometry.particle_radius * problem.pixel_size_angstrom
    ini, between, final = (str(n) for n in p["iterations"])
    common = [
        "--i", "particles.star", "--o", "./out", "--ctf", "--K", "1", "--denovo_3dref", "--flatten_solvent",
        "--zero_mask",
        "--particle_diameter", f"{diameter:.0f}", "--dont_check_norm", "--j", "1", "--random_seed", "1",
    ]  # fmt: skip
    if p["mode"] == "em":
        return [*common, "--iter", str(sum(p["iterations"])), "--ini_high", "35"]
    # each map is written: what is stopped has something to show
    steps = ["--sgd_ini_iter", ini, "--sgd_inbetween_iter", between, "--sgd_fin_iter", final, "--sgd_write_iter", "1"]
    return [*common, "--sgd", *steps]


def _watched(
    command: list[str], folder: Path, limit: float, stop: Callable[[], bool]
) -> tuple[str | None, float, float]:
    """Run a command; return how it ended (None: told to stop), its wall and its processor seconds."""
    before = os.times()
    began = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and time.monotonic() - began < limit and not stop():
                time.sleep(_POLL_SECONDS)
            stopped = process.poll() is None and stop()
            late = process.poll() is None and not stopped
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_KILL_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
    after = os.times()
    seconds = time.monotonic() - began
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    if stopped:
        return None, seconds, cpu
    if late:
        return f"stopped after {limit:.0f} s", seconds, cpu
    return ("done" if process.returncode == 0 else f"exit code {process.returncode}"), seconds, cpu
