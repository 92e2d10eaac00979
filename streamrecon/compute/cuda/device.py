"""A CUDA device: what the backend needs of one, and the real one through CuPy."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array
from streamrecon.compute.cuda.source import OPTIONS, kernel_source
from streamrecon.compute.cuda.transfer import Uploader
from streamrecon.errors import DeviceError

INSTALL_HINT = "install streamrecon[cuda12] or streamrecon[cuda13], whichever the driver supports (see nvidia-smi)"
_OLDEST_CAPABILITY = 75


class Device(Protocol):
    """An array module, its kernels, and the way in and out.

    Attributes
    ----------
    xp : module
        CuPy, or what stands in for it in tests.
    description : str
        Model and memory, for people.
    multiprocessors : int
    out_of_memory : type
        The exception that says so.
    tf32 : bool
        Whether matrix products round their factors to 10 bits of mantissa.
    """

    xp: Any
    description: str
    multiprocessors: int
    out_of_memory: type[Exception]
    tf32: bool

    def function(self, name: str) -> Callable[..., Any]:
        """Return a kernel, called as ``f(grid, block, args, shared_mem=bytes)``."""

    def upload(self, host: NDArray[Any]) -> Array:
        """Return a host array on the device."""

    def download(self, array: Array) -> NDArray[Any]:
        """Return a device array on the host."""

    def free_bytes(self) -> int:
        """Return the memory that arrays may still take."""

    def memory_bytes(self) -> tuple[int, int]:
        """Return the memory in use, whoever uses it, and all there is."""

    def release(self) -> None:
        """Give back memory that is kept for reuse."""


def _import_cupy(tf32: bool) -> Any:
    if tf32:
        os.environ.setdefault("CUPY_TF32", "1")  # read once, when CuPy is imported
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(f"CuPy cannot be imported ({error}); {INSTALL_HINT}") from error


class CupyDevice:
    """A real device.

    Parameters
    ----------
    number : int
        As CUDA counts.
    memory_share : float
        Of the device's memory, for all arrays together.
    tf32 : bool
        Whether matrix products may round their factors to 10 bits of mantissa. CuPy reads it when it is first imported.

    Raises
    ------
    DeviceError
        CuPy, the driver or the device is missing or too old; the message says which.

    Attributes
    ----------
    total_bytes : int
        Memory of the device.
    """

    def __init__(self, number: int = 0, memory_share: float = 0.8, tf32: bool = False) -> None:
        cupy = _import_cupy(tf32)
        self.xp = cupy
        self.number = number
        self.tf32 = tf32
        runtime = cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            raise DeviceError(
                f"no CUDA driver answers ({error}); install NVIDIA's driver, and {INSTALL_HINT}"
            ) from error
        if not 0 <= number < count:
            raise DeviceError(
                f"compute.devices: found {number}, but this host has {count} CUDA devices, counted from 0"
            )
        try:
            self._cuda_device = cupy.cuda.Device(number)
            self._cuda_device.use()
            properties = runtime.getDeviceProperties(number)
            capability = 10 * properties["major"] + properties["minor"]
            self.total_bytes = total = int(properties["totalGlobalMem"])
            name = properties["name"].decode()
            if capability < _OLDEST_CAPABILITY:
                raise DeviceError(
                    f"{name}: compute capability {capability / 10:.1f}, expected 7.5 (Turing) or later; "
                    'choose other compute.devices, or compute.backend = "cpu"'
                )
            self.driver = int(runtime.driverGetVersion())
            self.description = f"{name}, {total / 2**30:.0f} GiB, driver for CUDA {_version(self.driver)}"
            self.multiprocessors = int(properties["multiProcessorCount"])
            self._budget = int(memory_share * total)
            self._pool = cupy.get_default_memory_pool()
            self._pool.set_limit(size=self._budget)
            module = cupy.RawModule(code=kernel_source(), options=OPTIONS, backend="nvrtc")
            module.compile()
            self._module = module
            self._uploader = Uploader(_CupyStreams(cupy))
        except (ImportError, OSError, RuntimeError, cupy.cuda.compiler.CompileException) as error:
            raise DeviceError(f"CUDA device {number} cannot be used: {error}; {INSTALL_HINT}") from error
        self.out_of_memory = cupy.cuda.memory.OutOfMemoryError

    def function(self, name: str) -> Callable[..., Any]:
        """Return a kernel."""
        function: Callable[..., Any] = self._module.get_function(name)
        return function

    def upload(self, host: NDArray[Any]) -> Array:
        """Return a host array on the device; the host does not wait."""
        if host.size == 0:
            array: Array = self.xp.empty(host.shape, host.dtype)
        else:
            array = self._uploader.upload(host)
        return array

    def download(self, array: Array) -> NDArray[Any]:
        """Return a device array on the host; the host waits for it."""
        return np.asarray(self.xp.asnumpy(array))

    def free_bytes(self) -> int:
        """Return what the budget and the device still leave."""
        free, _ = self.xp.cuda.runtime.memGetInfo()
        reusable = int(self._pool.free_bytes())
        return max(0, min(self._budget - int(self._pool.used_bytes()), int(free) + reusable))

    def memory_bytes(self) -> tuple[int, int]:
        """Return the memory in use, whoever uses it, and all there is."""
        free, total = self.xp.cuda.runtime.memGetInfo()
        return int(total) - int(free), int(total)

    def release(self) -> None:
        """Give back memory that is kept for reuse, cuFFT's work areas included."""
        self.xp.fft.config.get_plan_cache().clear()
        self._pool.free_all_blocks()


class _CupyStreams:
    """`transfer.Streams` on a real device; compute is CuPy's current stream."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self.compute = cupy.cuda.get_current_stream()
        self.copy = cupy.cuda.Stream(non_blocking=True)

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return page-locked host memory."""
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(n_bytes), np.uint8, n_bytes)

    def staging(self, n_bytes: int) -> Any:
        """Return device memory that no stream uses: what the pool hands out, the compute stream may still be at."""
        buffer = self._cupy.empty(n_bytes, np.uint8)
        self.compute.synchronize()
        return buffer

    def copy_in(self, staged: Any, pinned: NDArray[np.uint8]) -> None:
        """Queue a copy to the device."""
        staged.set(pinned, stream=self.copy)

    def take_out(self, staged: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Queue a copy within the device."""
        return staged.view(dtype).reshape(shape).copy()


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def open_device(number: int = 0, memory_share: float = 0.8, tf32: bool = False) -> CupyDevice:
    """Open a CUDA device; see `CupyDevice`."""
    return CupyDevice(number, memory_share, tf32)
