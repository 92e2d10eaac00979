"""RELION as a peer: its commands, as its own window would make them, and the maps that it leaves on its way.

Options are those of `relion_refine --help`; the values are the defaults of RELION's window for the jobs "3D initial
model" and "3D auto-refine", but for what is said at each.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which

from benchmarks.watched import Found

PROGRAMS = ("relion_refine", "relion_refine_mpi", "mpirun")
_ITERATION = re.compile(r"run_it(\d{3})_optimiser\.star")
_SUBSET = re.compile(r"^_rln(?:Sgd|Grad)SubsetSize\s+(-?\d+)", re.MULTILINE)
_INI, _BETWEEN, _FIN = 50, 200, 50
_INI_SUBSET, _FIN_SUBSET = 100, 500


def missing_programs() -> list[str]:
    """Return those programs that are not on PATH."""
    return [name for name in PROGRAMS if which(name) is None]


@cache
def help_text() -> str:
    """Return what `relion_refine --help` says."""
    done = subprocess.run(["relion_refine", "--help"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def version() -> str:
    """Return RELION's version as it says it."""
    done = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"RELION version:?\s*(\S+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


def has_vdam() -> bool:
    """Whether it makes initial models by VDAM (``--grad``, RELION 4 and later) and not by SGD (3.1)."""
    return re.search(r"--grad\b", help_text()) is not None


@dataclass(frozen=True)
class Schedule:
    """How many iterations the initial model takes, and images in each.

    Attributes
    ----------
    share : float
        Of the window's 300 iterations of SGD or 200 of VDAM: 1 is as RELION's window has it.
    """

    share: float = 1.0

    def phases(self) -> tuple[int, int, int]:
        """Return SGD's iterations: initial, between, final."""
        ini, between, fin = (max(1, round(self.share * n)) for n in (_INI, _BETWEEN, _FIN))
        return ini, between, fin

    @property
    def iterations(self) -> int:
        """How many in all."""
        return max(3, round(self.share * 200)) if has_vdam() else sum(self.phases())

    def visits(self, iteration: int) -> int:
        """Return images visited by SGD up to an iteration.

        The mini-batch is small at first and large at the end, and grows linearly between (`sgd_ini_subset`,
        `sgd_fin_subset`).
        """
        ini, between, _ = self.phases()
        total = 0
        for i in range(1, iteration + 1):
            grown = min(1.0, max(0.0, (i - ini) / between))
            total += round(_INI_SUBSET + grown * (_FIN_SUBSET - _INI_SUBSET))
        return total


def initial_model(
    star: str, out: str, diameter_angstrom: float, threads: int, seed: int, schedule: Schedule
) -> list[str]:
    """Return the command of the job "3D initial model", from a random start, one class, C1."""
    ini, between, fin = schedule.phases()
    if has_vdam():
        method = ["--grad", "--iter", str(schedule.iterations), "--grad_write_iter", "5", "--auto_sampling"]
        method += ["--tau2_fudge", "4"]
    else:
        method = ["--sgd", "--sgd_ini_iter", str(ini), "--sgd_inbetween_iter", str(between)]
        method += ["--sgd_fin_iter", str(fin), "--sgd_ini_resol", "35", "--sgd_fin_resol", "15"]
        method += ["--sgd_ini_subset", str(_INI_SUBSET), "--sgd_fin_subset", str(_FIN_SUBSET)]
        # its window has 10; more often shows better when a resolution was reached, at no cost to speak of
        method += ["--sgd_write_iter", "2"]
    return [
        "relion_refine", "--i", star, "--o", out, "--denovo_3dref", *method, "--ctf", "--K", "1", "--sym", "C1",
        "--flatten_solvent", "--zero_mask", "--pool", "3", "--pad", "1", "--particle_diameter",
        f"{diameter_angstrom:.0f}", "--oversampling", "1", "--healpix_order", "1", "--offset_range", "6",
        "--offset_step", "2", "--dont_combine_weights_via_disc", "--j", str(threads), "--random_seed", str(seed),
    ]  # fmt: skip


def auto_refine(
    star: str, reference: str, out: str, diameter_angstrom: float, threads: int, seed: int, *, own_scale: bool
) -> list[str]:
    """Return the command of the job "3D auto-refine": gold standard, C1, from a map low-passed to 40 A.

    Its halves need MPI: a leader that waits, and one process for each half with its share of the threads.
    ``own_scale``: the reference is RELION's own, on its absolute grey scale; else the first iteration goes by
    cross-correlation.
    """
    as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    scale = [] if own_scale else ["--firstiter_cc"]
    return [
        "mpirun", *as_root, "--oversubscribe", "-n", "3", "relion_refine_mpi", "--i", star, "--ref", reference,
        "--o", out, "--auto_refine", "--split_random_halves", "--low_resol_join_halves", "40", "--ini_high", "40",
        *scale, "--ctf", "--sym", "C1", "--flatten_solvent", "--zero_mask", "--norm", "--scale", "--pool", "3",
        "--pad", "2", "--particle_diameter", f"{diameter_angstrom:.0f}", "--oversampling", "1", "--healpix_order",
        "2", "--auto_local_healpix_order", "4", "--offset_range", "5", "--offset_step", "2",
        "--dont_combine_weights_via_disc", "--j", str(max(1, threads // 2)), "--random_seed", str(seed),
    ]  # fmt: skip


class Iterations:
    """The maps that relion_refine leaves after each iteration, each handed out once.

    Parameters
    ----------
    folder : Path
        Where its files named ``run_...`` are.
    images : int
        In the whole set.
    schedule : Schedule, optional
        Of an initial model, which looks at mini-batches; without one every iteration looks at every image.
    """

    def __init__(self, folder: Path, images: int, schedule: Schedule | None = None) -> None:
        self._folder = folder
        self._images = images
        self._schedule = schedule
        self._seen: set[str] = {"000"}  # before the first iteration
        self._visits = 0
        self._last = 0

    def new(self) -> list[Found]:
        """Return maps of iterations that have ended since the last call, and in the end the final map."""
        found = []
        for path in sorted(self._folder.glob("run_it*_optimiser.star")):
            matched = _ITERATION.fullmatch(path.name)
            if matched is None or matched[1] in self._seen:
                continue
            maps = self._maps(matched[1])
            # sampling.star is the last file of an iteration
            if not maps or not (self._folder / f"run_it{matched[1]}_sampling.star").exists():
                continue
            self._seen.add(matched[1])
            iteration = int(matched[1])
            found.append(Found(maps, f"iteration {iteration}", self._count(iteration, path)))
        final = self._folder / "run_class001.mrc"
        if "final" not in self._seen and final.exists() and (self._folder / "run_data.star").exists():
            self._seen.add("final")
            found.append(Found((final,), "final", self._visits))
        return found

    def _maps(self, number: str) -> tuple[Path, ...]:
        one = self._folder / f"run_it{number}_class001.mrc"
        if one.exists():
            return (one,)
        halves = tuple(self._folder / f"run_it{number}_half{h}_class001.mrc" for h in (1, 2))
        return halves if all(half.exists() for half in halves) else ()

    def _count(self, iteration: int, optimiser: Path) -> int:
        steps, self._last = iteration - self._last, iteration
        if self._schedule is None:
            self._visits += steps * self._images
        elif not has_vdam():
            self._visits = self._schedule.visits(iteration)
        else:
            size = _SUBSET.search(optimiser.read_text(encoding="utf-8", errors="replace"))
            # -1: all of them
            self._visits += steps * (int(size[1]) if size and int(size[1]) > 0 else self._images)
        return self._visits
