"""The same particles, the same machine, one run: this program against RELION, both from a random start.

relion_project makes the set from a known map; each program then works on it with two threads.

  initial model   the daemon's one pass        | relion_refine --denovo_3dref (--grad, or --sgd where it has no other)
  refinement      its visits in idle time      | relion_refine_mpi --auto_refine, from RELION's initial model

The daemon is `streamrecon run` with its page and its assessments off: RELION has neither. Where RELION's initial model
is not there in its time, auto-refine is given ours after one pass, and the table says so.

  visits       images looked at; an image that was looked at twice counts twice
  core-s, s    processor seconds (user and system, of the whole process tree) and wall seconds from a program's start
               to the map; a refinement's begin at its own start for RELION and at the daemon's start for us
  FSC 0.5      where the map, aligned to the truth with the better hand, falls below 0.5 against it under a soft sphere

A program that is not done in --limit-minutes, or --limit-core-seconds, is ended and printed as such, with what it had
reached. On a busy machine only core-seconds compare. Maps are held against the truth when all programs have ended.

Example: python -m benchmarks.versus_relion --images 3000 --limit-minutes 10 --output versus
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import relion_peer, relion_set
from benchmarks.common import Specimen, beta_galactosidase, f1_atpase, parser, print_machine, print_table, write_json
from benchmarks.watched import Found, Watched, watch
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compare.session import free_ports, write_session_config
from streamrecon.errors import IngestError
from streamrecon.inference.observation import soft_sphere
from streamrecon.io import read_volume, write_volume

LEVELS = (30.0, 25.0, 20.0, 17.5, 15.0, 12.5, 11.0, 10.0)
_QUIET_SECONDS = 20.0  # the daemon writes a map every few seconds as long as visits pay
_MOST_MAPS = 24  # of each run are held against the truth


@dataclass(frozen=True)
class Point:
    """A map held against the truth."""

    found: Found
    fsc_05_angstrom: float


@dataclass(frozen=True)
class Limits:
    """When a run is ended: wall seconds and core-seconds."""

    seconds: float
    core_seconds: float


class Judge:
    """Holds maps against the truth.

    Parameters
    ----------
    specimen : Specimen
    """

    def __init__(self, specimen: Specimen) -> None:
        self._specimen = specimen
        box = len(specimen.volume)
        self._mask = soft_sphere(box, 0.4 * box, 5.0, dimensions=3)

    def resolution(self, maps: Sequence[Path], *, aligned: bool = False) -> float:
        """Return FSC 0.5 of the mean of some maps, angstrom; infinite for an empty map."""
        volume = np.stack([read_volume(path)[0] for path in maps]).mean(axis=0).astype(np.float32)
        if not volume.any():
            return float("inf")
        truth, pixel_size = self._specimen.volume, self._specimen.pixel_size_angstrom
        if not aligned:
            volume = align_volumes(truth, volume, pixel_size).volume
        return fsc_between(truth, volume, pixel_size, self._mask).resolution_05_angstrom

    def curve(self, run: Watched) -> list[Point]:
        """Judge a run's maps; of very many only some, denser at first. The last is always among them."""
        n = len(run.found)
        chosen = sorted({round(i) - 1 for i in np.geomspace(1, n, min(n, _MOST_MAPS))}) if n else []
        return [Point(run.found[i], self.resolution(run.found[i].maps)) for i in chosen]


class Snapshots:
    """The daemon's snapshots, each kept under its own name: the daemon replaces them."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder, self._kept = folder, kept
        self._visits = 0
        kept.mkdir()

    def _status(self) -> Mapping[str, Any]:
        try:
            return dict(json.loads((self._folder / "status.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError):
            return {}

    def new(self) -> list[Found]:
        """Return the newest map if it was not handed out yet."""
        status = self._status()
        visits = int(status.get("image_visits", 0))
        if visits <= self._visits:
            return []
        path = self._kept / f"{visits:07d}.mrc"
        shutil.copy(self._folder / "volume.mrc", path)
        if self._status() != status:
            return []  # replaced meanwhile: whose map this is nobody knows
        self._visits = visits
        seen = int(status["particles_seen"])
        label = f"{seen} seen" if visits == seen else f"visit {visits}"
        return [Found((path,), f"{label}, {status['stage']}", visits)]


def run_ours(folder: Path, images: int, threads: int, seed: int, limits: Limits) -> Watched:
    """Let the daemon work on the set until visits in idle time pay no more."""
    incoming = folder / "incoming"
    incoming.mkdir()
    for name in ("particles.mrcs", "particles.star"):
        os.link(folder / name, incoming / name)
    path = write_session_config(folder, free_ports(), seed=seed)
    text = path.read_text(encoding="utf-8").replace("[monitor]\n", "[monitor]\npage = false\n")
    text += f'\n[engine]\nthreads = {threads}\n\n[assess]\nenabled = false\n\n[compute]\nbackend = "cpu"\n'
    path.write_text(text, encoding="utf-8")
    snapshots = Snapshots(folder / "session" / "snapshots", folder / "ours")
    return watch(
        [sys.executable, "-m", "streamrecon", "run", "-c", str(path)],
        folder,
        folder / "ours.log",
        snapshots.new,
        limits.seconds,
        limit_core_seconds=limits.core_seconds,
        environment=_environment(threads),
        done=lambda watched, quiet: (
            bool(watched.found) and watched.found[-1].visits >= images and quiet > _QUIET_SECONDS
        ),
    )


def run_initial_model(
    folder: Path, specimen: Specimen, images: int, threads: int, seed: int, limits: Limits,
    schedule: relion_peer.Schedule,
) -> Watched:  # fmt: skip
    """Let RELION make its initial model."""
    out = folder / "initial"
    out.mkdir()
    command = relion_peer.initial_model("particles.star", "initial/run", _diameter(specimen), threads, seed, schedule)
    print("$ " + " ".join(command), flush=True)
    iterations = relion_peer.Iterations(out, images, schedule)
    return watch(
        command, folder, folder / "initial.log", iterations.new, limits.seconds,
        limit_core_seconds=limits.core_seconds, environment=_environment(threads),
    )  # fmt: skip


def run_auto_refine(
    folder: Path, specimen: Specimen, images: int, threads: int, seed: int, limits: Limits, reference: Path,
    *, own_scale: bool,
) -> Watched:  # fmt: skip
    """Let RELION refine from a map."""
    out = folder / "refine"
    out.mkdir()
    command = relion_peer.auto_refine(
        "particles.star", str(reference.relative_to(folder)), "refine/run", _diameter(specimen), threads, seed,
        own_scale=own_scale,
    )  # fmt: skip
    print("$ " + " ".join(command), flush=True)
    iterations = relion_peer.Iterations(out, images)
    return watch(
        command, folder, folder / "refine.log", iterations.new, limits.seconds,
        limit_core_seconds=limits.core_seconds, environment=_environment(threads),
    )  # fmt: skip


def _diameter(specimen: Specimen) -> float:
    """Return the mask's diameter, angstrom: what the engine takes by itself."""
    return 0.8 * len(specimen.volume) * specimen.pixel_size_angstrom


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def first_at(curve: Sequence[Point], level: float) -> Point | None:
    """Return the first point of a curve at a resolution or better."""
    return next((point for point in curve if point.fsc_05_angstrom <= level), None)


def level_rows(curves: Mapping[str, Sequence[Point]]) -> list[dict[str, Any]]:
    """Return a row for each level: what each run had taken when it was first there."""
    rows = []
    for level in LEVELS:
        row: dict[str, Any] = {"FSC 0.5 at": f"{level:g} A"}
        for name, curve in curves.items():
            point = first_at(curve, level)
            row[f"{name}: core-s"] = round(point.found.core_seconds) if point else None
            row[f"{name}: s"] = round(point.found.seconds) if point else None
            row[f"{name}: visits"] = point.found.visits if point else None
        rows.append(row)
    return rows


def _total_row(name: str, run: Watched, curve: Sequence[Point], images: int) -> dict[str, Any]:
    best = min(curve, key=lambda p: p.fsc_05_angstrom) if curve else None
    last = curve[-1] if curve else None
    return {
        "run": name,
        "ended": "FAILED" if run.failure else "by itself" if run.finished else "NOT FINISHED in its time",
        "at": last.found.label if last else "before its first map",
        "core-s": round(run.core_seconds),
        "s": round(run.seconds),
        "visits": last.found.visits if last else 0,
        "visits/image": f"{last.found.visits / images:.1f}" if last else "0",
        "peak MiB": round(run.peak_bytes / 2**20),
        "FSC 0.5, last": f"{last.fsc_05_angstrom:.1f} A" if last else "-",
        "best": f"{best.fsc_05_angstrom:.1f} A" if best else "-",
    }


def one_pass(run: Watched, images: int) -> Found | None:
    """Return the daemon's first map that has every particle."""
    return next((found for found in run.found if found.visits >= images), None)


def ratios(ours: Sequence[Point], theirs: Sequence[Point], spent: float, what: str) -> list[str]:
    """Say how many times fewer core-seconds we took to each level that we reached, or a lower bound of it."""
    lines = []
    for level in LEVELS:
        mine, other = first_at(ours, level), first_at(theirs, level)
        if mine is None:
            break
        if other is None:
            lines.append(
                f"{level:g} A: us {mine.found.core_seconds:.0f} core-s; {what} not in {spent:.0f} core-s: more than "
                f"{spent / mine.found.core_seconds:.0f} times"
            )
        else:
            ratio = other.found.core_seconds / mine.found.core_seconds
            lines.append(
                f"{level:g} A: us {mine.found.core_seconds:.0f} core-s; {what} {other.found.core_seconds:.0f} core-s: "
                f"{ratio:.1f} times"
            )
    return lines


def _say(name: str, run: Watched) -> None:
    ended = "has ended" if run.finished else "was ended, not finished"
    print(f"{name} {ended} after {run.core_seconds:.0f} core-s, {run.seconds:.0f} s, {len(run.found)} maps", flush=True)
    if run.failure:
        print(run.failure, flush=True)


def _curve_rows(curve: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {
            "at": p.found.label, "visits": p.found.visits, "core-s": round(p.found.core_seconds),
            "s": round(p.found.seconds), "FSC 0.5": f"{p.fsc_05_angstrom:.2f} A",
        }
        for p in curve
    ]  # fmt: skip


def compare(folder: Path, specimen: Specimen, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run everything, print every table, and return the figures."""
    judge, images = Judge(specimen), chosen.images
    limits = Limits(60 * chosen.limit_minutes, chosen.limit_core_seconds)
    ceiling = judge.resolution((folder / "true_poses.mrc",), aligned=True)
    print(f"relion_reconstruct with the true poses: FSC 0.5 at {ceiling:.2f} A", flush=True)

    ours = run_ours(folder, images, chosen.threads, chosen.seed, limits)
    _say("streamrecon", ours)
    schedule = relion_peer.Schedule(chosen.schedule)
    short = replace(limits, core_seconds=min(limits.core_seconds, chosen.initial_core_seconds))
    initial = run_initial_model(folder, specimen, images, chosen.threads, chosen.seed, short, schedule)
    _say("RELION's initial model", initial)
    passed = one_pass(ours, images)
    if initial.finished and initial.found:
        reference, own_scale, start = initial.found[-1].maps[0], True, "RELION's initial model"
    elif passed is not None:
        reference, own_scale, start = passed.maps[0], False, "our map after one pass"
    else:
        reference, own_scale, start = folder / "map.mrc", False, "the truth"
    print(f"auto-refine starts from {start}, low-passed to 40 A")
    refine = run_auto_refine(
        folder, specimen, images, chosen.threads, chosen.seed, limits, reference, own_scale=own_scale
    )
    _say("RELION's auto-refine", refine)

    runs = {"streamrecon": ours, "RELION initial model": initial, "RELION auto-refine": refine}
    curves = {}
    for name, run in runs.items():
        curves[name] = judge.curve(run)
        print(f"\n{name}")
        print_table(_curve_rows(curves[name]))
        sys.stdout.flush()
    our_curve, initial_curve, refine_curve = curves.values()

    print("\nTo reach FSC 0.5 against the truth")
    print_table(level_rows(curves))
    print("\nIn all")
    totals = [_total_row(name, runs[name], curve, images) for name, curve in curves.items()]
    print_table(totals)
    # of one that was cut short before its first map there is nothing to say
    lines = ratios(our_curve, initial_curve, initial.core_seconds, "its initial model") if initial_curve else []
    lines += ratios(our_curve, refine_curve, refine.core_seconds, "auto-refine")
    print("\nRatios of core-seconds\n" + "\n".join(lines))
    return {
        "relion": relion_peer.version(), "ceiling_angstrom": ceiling, "auto_refine_from": start, "totals": totals,
        "ratios": lines, "curves": {name: _curve_rows(curve) for name, curve in curves.items()},
    }  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=5000, metavar="N", help="how many (default: 5000)")
    options.add_argument("--box", type=int, default=64, metavar="PX", help="box size (default: 64)")
    options.add_argument("--snr", type=float, default=0.1, help="signal variance over noise variance (default: 0.1)")
    options.add_argument("--specimen", choices=["bgal", "f1"], default="bgal", help="bgal: a box of 64 at most")
    options.add_argument("--seed", type=int, default=1, help="of the set and of every random start (default: 1)")
    options.add_argument("--threads", type=int, default=2, metavar="N", help="for each program (default: 2)")
    options.add_argument(
        "--limit-minutes", type=float, default=60.0, metavar="M", help="wall time of each run (default: 60)"
    )
    options.add_argument(
        "--limit-core-seconds", type=float, default=math.inf, metavar="S", help="of each run (default: none)"
    )
    options.add_argument(
        "--initial-core-seconds", type=float, default=math.inf, metavar="S",
        help="of RELION's initial model; a few of them, and auto-refine is given ours (default: as of each run)",
    )  # fmt: skip
    options.add_argument(
        "--schedule", type=float, default=1.0, metavar="SHARE",
        help="share of the iterations that RELION's window gives an initial model (default: 1)",
    )  # fmt: skip
    options.add_argument("--output", type=Path, metavar="DIR", help="keep everything in this new folder")
    chosen = options.parse_args()
    if missing := [*relion_set.missing_programs(), *relion_peer.missing_programs()]:
        raise IngestError(f"not on PATH: {', '.join(missing)}; install RELION (Debian: relion)")
    print_machine()
    method = "VDAM" if relion_peer.has_vdam() else "SGD"
    with ExitStack() as stack:
        folder = (chosen.output or Path(stack.enter_context(tempfile.TemporaryDirectory()))).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        specimen = f1_atpase(chosen.box) if chosen.specimen == "f1" else beta_galactosidase(chosen.box)
        write_volume(folder / "map.mrc", specimen.volume, specimen.pixel_size_angstrom)
        relion_set.project(
            folder, specimen.volume, specimen.pixel_size_angstrom, chosen.images, chosen.snr, chosen.seed
        )
        relion_set.relion_reconstruct(folder, folder / "particles.star", folder / "true_poses.mrc")
        print(
            f"{specimen.name}, {chosen.images} images of {chosen.box} px ({specimen.pixel_size_angstrom:.2f} A), SNR "
            f"{chosen.snr:g}, seed {chosen.seed}; RELION {relion_peer.version()} ({method}, {chosen.schedule:g} of the "
            f"window's iterations), {chosen.threads} threads each, at most {chosen.limit_minutes:g} minutes each",
            flush=True,
        )
        result = compare(folder, specimen, chosen)
    write_json(chosen.json, {"options": {k: str(v) for k, v in vars(chosen).items()}, **result})


if __name__ == "__main__":
    main()
