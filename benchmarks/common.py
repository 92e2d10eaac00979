"""What the benchmarks share: simulated batches, the machine in words, tables, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamrecon.particles import ParticleBatch
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings
from streamrecon.simulate.specimen import density_from_map, density_from_model

_FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"


@dataclass(frozen=True)
class Specimen:
    """A known map: ``volume`` (box, box, box) float32; ``n_symmetric`` is its symmetry group's order.

    ``view_concentration`` above 0: it shows itself along its z axis most of all, see `MicroscopeSettings`.
    """

    name: str
    volume: NDArray[np.float32]
    pixel_size_angstrom: float
    n_symmetric: int
    view_concentration: float = 0.0


def f1_atpase(box_size: int = 64) -> Specimen:
    """Return F1-ATPase (PDB 1E79, bundled; nearly threefold, but asymmetric) in a box of 204.8 angstrom."""
    pixel_size = 204.8 / box_size
    # two threads of BLAS round otherwise than one, and what follows is as chaotic as any annealing
    with threadpool_limits(1, user_api="blas"):
        volume = density_from_model(None, box_size, pixel_size)
    return Specimen("F1-ATPase", volume, pixel_size, 1)


def beta_galactosidase(box_size: int = 64) -> Specimen:
    """Return beta-galactosidase (a measured map, D2) in a box of 226.6 angstrom: 64 voxels of 3.54, or fewer."""
    pixel_size = 3.54 * 64 / box_size
    with threadpool_limits(1, user_api="blas"):
        volume = density_from_map(_FIXTURES / "beta_galactosidase_64_3.54A.mrc", box_size, pixel_size)
    return Specimen("beta-galactosidase", volume, pixel_size, 4)


def batches(
    specimen: Specimen, n: int, snr: float, seed: int, size: int = 100
) -> Iterator[tuple[ParticleBatch, NDArray[np.float32]]]:
    """Yield batches of simulated particles and their true rotations (size, 3, 3); a batch is one micrograph."""
    settings = MicroscopeSettings(
        pixel_size_angstrom=specimen.pixel_size_angstrom, particles_per_micrograph=size, snr=snr, seed=seed,
        view_concentration=specimen.view_concentration,
    )  # fmt: skip
    microscope = Microscope(specimen.volume, settings)
    for number in range(-(-n // size)):
        taken = microscope.micrograph(number, f"stack_{number}", f"mic_{number}", min(size, n - number * size))
        rotation = taken.table.rotation
        if rotation is None:
            raise RuntimeError("the microscope gave no rotations")
        yield ParticleBatch(taken.images, taken.table, tuple(taken.table.identities())), rotation


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help shows the module's docstring, with the option all benchmarks have."""
    result = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", type=Path, metavar="FILE", help="also write every figure there")
    return result


@cache
def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, versions; as they were when first asked for."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "revision": _revision(),
    }


def _revision() -> str:
    """Return the checkout's commit, "-dirty" behind it if files differ; "unknown" outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def print_machine() -> None:
    """Say on what this runs and how busy it is: figures from a busy machine are worth nothing."""
    about = machine()
    load = os.getloadavg()[0]
    print(f"{about['processor']}, {about['cores']} cores; Python {about['python']}, NumPy {about['numpy']}")
    print(f"revision {about['revision']}; load before the run {load:.1f}")


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of equal keys as a plain table, first column left, the rest right."""
    if not rows:
        return
    columns = list(rows[0])
    cells = [columns, *([_text(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for number, line in enumerate(cells):
        first, *rest = (
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]))
        if number == 0:
            print("  ".join("-" * w for w in widths))


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write the figures and the machine they are from, if a path was given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **result}, indent=2) + "\n", encoding="utf-8")


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
