"""Which backend a session runs on, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from streamrecon.compute.backend import Backend
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import INSTALL_HINT, Device, open_device
from streamrecon.compute.cuda.poses import CubePrecision
from streamrecon.compute.selftest import compare_with_cpu
from streamrecon.errors import DeviceError

BackendName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ComputeSettings:
    """What can be chosen about the device.

    Attributes
    ----------
    backend : {"auto", "cpu", "cuda"}
        "auto" takes a CUDA device if there is one and its results agree with the CPU's.
    device : int
        Which one, as CUDA counts.
    memory_share : float
        Of the device's memory, for all arrays together.
    cube_precision : {"single", "half"}
        What poses are scored against on a CUDA device.
    tf32 : bool
        Whether matrix products there may round their factors to 10 bits of mantissa.
    """

    backend: BackendName = "auto"
    device: int = 0
    memory_share: float = 0.8
    cube_precision: CubePrecision = "single"
    tf32: bool = False


@dataclass(frozen=True)
class ChosenBackend:
    """A backend, and why it is this one, in words."""

    backend: Backend
    reason: str


def choose_backend(
    settings: ComputeSettings, threads: int = 0, open_device: Callable[[int, float, bool], Device] = open_device
) -> ChosenBackend:
    """Make the backend of a session.

    Parameters
    ----------
    settings : ComputeSettings
    threads : int
        Of the CPU backend; 0 means one a core.
    open_device : callable
        Opens a CUDA device, given its number, the share of its memory and tf32.

    Raises
    ------
    DeviceError
        CUDA is asked for and cannot be, or the device gives wrong results.
    """
    if settings.backend == "cpu":
        return ChosenBackend(CpuBackend(threads), 'compute.backend = "cpu"')
    try:
        device = open_device(settings.device, settings.memory_share, settings.tf32)
        backend = CudaBackend(device, settings.cube_precision)
        _refuse_if_wrong(backend)
    except DeviceError as error:
        if settings.backend == "cuda":
            raise DeviceError(f'compute.backend = "cuda": {error}') from error
        return ChosenBackend(CpuBackend(threads), f"no CUDA device can be used: {error}")
    return ChosenBackend(backend, f"{device.description}; its results agree with the CPU's")


def _refuse_if_wrong(backend: CudaBackend) -> None:
    """Check a device on small data: under a second, and a wrong map costs a session."""
    try:
        wrong = [c for c in compare_with_cpu(backend, tf32=backend.device.tf32) if not c.good]
    except (ImportError, OSError, RuntimeError) as error:  # what CuPy raises where cuBLAS or cuFFT cannot be loaded
        raise DeviceError(f"{backend.device.description}: {error}; {INSTALL_HINT}") from error
    if wrong:
        listed = ", ".join(f"{c.name} {c.error:.1e} (expected {c.tolerance:.0e} at most)" for c in wrong)
        raise DeviceError(
            f"{backend.device.description}: results differ from the CPU's: {listed}; "
            'run `streamrecon check --gpu`, and set compute.backend = "cpu" meanwhile'
        )
