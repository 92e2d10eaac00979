"""``streamrecon check``: can this machine do the work, is it right, and how fast is it?"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Annotated

import numba
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import streamrecon
from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.compute.backend import Backend
from streamrecon.compute.choose import ComputeSettings
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.compute.cuda.source import signatures
from streamrecon.compute.selftest import CheckSizes, Comparison, check_against_closed_form, compare_with_cpu
from streamrecon.errors import DeviceError
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate import Microscope, MicroscopeSettings, density_from_model

_BOX, _PIXEL, _SNR = 64, 3.2, 0.1
_WARM_UP = 1  # batches, on which kernels are compiled and tables made
_LARGE = CheckSizes(box=128, k_max=58, rings=14, images=8, samples=48, in_plane_angles=48)


def check(
    gpu: Annotated[bool, typer.Option("--gpu", help="Check a CUDA device instead of the CPU.")] = False,
    device: Annotated[int, typer.Option(help="Which one, as CUDA counts.")] = 0,
    particles: Annotated[int, typer.Option(min=200, help="Simulated particles to measure the rate on.")] = 600,
) -> None:
    """Check this machine: environment, kernels against known results, particles a second, and a verdict.

    Ends with exit code 0 if everything is right, 6 if not.

    Example, what to run first on a machine with a GPU: streamrecon check --gpu
    """
    console = Console(highlight=False)
    console.print(f"streamrecon {streamrecon.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, "
                  f"Numba {numba.__version__}; {len(os.sched_getaffinity(0))} cores")  # fmt: skip
    with errors_as_exit_codes():
        backend: Backend
        if gpu:
            defaults = ComputeSettings()
            opened = open_device(device, defaults.memory_share, defaults.tf32)
            backend = CudaBackend(opened)
            console.print(f"device {device}: {opened.description}; {len(signatures())} kernels compiled")
            results = [*compare_with_cpu(backend), *compare_with_cpu(backend, _LARGE)]
            half = compare_with_cpu(CudaBackend(opened, "half"))
            results += [c for c in half if c.name == "score"]
        else:
            backend = CpuBackend()
            results = []
        results += check_against_closed_form(backend)
        print_comparisons(console, results)
        wrong = [c for c in results if not c.good]
        if wrong:
            raise DeviceError(
                f"{len(wrong)} of {len(results)} results are wrong, the first is {wrong[0].name}: do not use this "
                "device; please report this output"
            )
        rate = particles_per_second(backend, particles)
    console.print(f"{rate:.0f} particles/s (box {_BOX}, searching from one random start, {particles} particles)")
    console.print(f"verdict: good. All that was compared agrees ({len(results)} results).")
    console.print(f"This machine can run a session on the {backend.name}.")


def particles_per_second(backend: Backend, n: int) -> float:
    """Return how fast an engine folds simulated particles, the first batch left out."""
    volume = density_from_model(None, _BOX, _PIXEL)
    microscope = Microscope(volume, MicroscopeSettings(pixel_size_angstrom=_PIXEL, snr=_SNR))
    size = 100
    engine = Engine(EngineSettings(starts=1), _BOX, _PIXEL, backend)
    seconds = 0.0
    for number in range(n // size):
        taken = microscope.micrograph(number, f"stack_{number}", f"mic_{number}", size)
        result = engine.fold(ParticleBatch(taken.images, taken.table, tuple(taken.table.identities())))
        seconds += result.step_seconds if number >= _WARM_UP else 0.0
    return (n // size - _WARM_UP) * size / seconds


def print_comparisons(console: Console, results: Sequence[Comparison]) -> None:
    """Print each result's error beside what is allowed."""
    table = Table("result", "error", "allowed", "")
    for c in results:
        table.add_row(c.name, f"{c.error:.1e}", f"{c.tolerance:.0e}", "good" if c.good else "WRONG")
    console.print(table)
