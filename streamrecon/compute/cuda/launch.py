"""Launching kernels: every argument is checked against the kernel's own declaration before it goes to the device.

CuPy passes a Python float as a double and a Python int as 64 bits whatever the kernel declares, and takes the address
of any array it is given: a wrong type is not an error there but a wrong result. So scalars are converted here to
exactly what is declared, and arrays must be on the device, contiguous and of the declared type.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from streamrecon.compute.cuda.source import Parameter, Signature
from streamrecon.errors import DeviceError

_MAX_SHARED_BYTES = 48 * 1024  # what every architecture grants without being asked
_MAX_GRID_X = 2**31 - 1
_WHOLE: dict[str, type[np.signedinteger[Any]]] = {"int": np.int32, "long long": np.int64}
_FLOAT32 = np.dtype(np.float32)
_ARRAYS: dict[str, tuple[np.dtype[Any], ...]] = {
    "float*": (_FLOAT32,),
    "float2*": (_FLOAT32, np.dtype(np.complex64)),
    "float4*": (_FLOAT32,),
    "double*": (np.dtype(np.float64),),
    "int*": (np.dtype(np.int32),),
    "unsigned*": (np.dtype(np.uint32),),
}
# floats a vector holds: the last axis of a float32 array in its place must be as long
_LANES = {"float2*": 2, "float4*": 4}


class Kernels:
    """The kernels of one device.

    Parameters
    ----------
    functions : callable
        From a kernel's name to something that is called as ``f(grid, block, args, shared_mem=bytes)``.
    signatures : mapping
    array_type : type
        What arrays on this device are.
    """

    def __init__(
        self, functions: Callable[[str], Callable[..., Any]], signatures: Mapping[str, Signature], array_type: Any
    ) -> None:
        self._functions = {name: functions(name) for name in signatures}
        self._signatures = signatures
        self._array_type = array_type

    def launch(
        self, name: str, blocks: int | tuple[int, int], threads: int, args: Sequence[Any], shared: int = 0
    ) -> None:
        """Launch a kernel; nothing happens for an empty grid.

        Parameters
        ----------
        name : str
        blocks : int or (int, int)
        threads : int
            A block; whole warps.
        args : sequence
        shared : int, bytes
            Of shared memory a block.

        Raises
        ------
        DeviceError
            Something does not fit the kernel's declaration or what a device can do: a mistake in the program.
        """
        signature = self._signatures[name]
        grid = (blocks, 1) if isinstance(blocks, int) else blocks
        if min(grid) == 0:
            return
        if threads % 32 or not 32 <= threads <= signature.max_threads:
            raise DeviceError(
                f"kernel {name}: {threads} threads a block, expected whole warps, {signature.max_threads} at most"
            )
        if grid[0] > _MAX_GRID_X or grid[1] > 65535:
            raise DeviceError(f"kernel {name}: a grid of {grid} is more than a device takes; give smaller batches")
        if shared > _MAX_SHARED_BYTES:
            raise DeviceError(f"kernel {name}: {shared} bytes of shared memory, expected at most {_MAX_SHARED_BYTES}")
        if len(args) != len(signature.parameters):
            raise DeviceError(f"kernel {name}: {len(args)} arguments, expected {len(signature.parameters)}")
        checked = tuple(self._check(name, p, a) for p, a in zip(signature.parameters, args, strict=True))
        self._functions[name](grid, (threads,), checked, shared_mem=shared)

    def _check(self, kernel: str, parameter: Parameter, value: Any) -> Any:
        where = f"kernel {kernel}, {parameter.type} {parameter.name}"
        if not parameter.is_pointer:
            return _scalar(where, parameter.type, value)
        if not isinstance(value, self._array_type):
            raise DeviceError(f"{where}: found a {type(value).__name__}, expected an array on the device")
        dtype, wanted = value.dtype, _ARRAYS[parameter.type]
        if dtype not in wanted:
            raise DeviceError(
                f"{where}: found an array of {dtype.name}, expected {' or '.join(w.name for w in wanted)}"
            )
        if dtype == _FLOAT32 and value.shape[-1] != _LANES.get(parameter.type, value.shape[-1]):
            raise DeviceError(f"{where}: found an array of shape {value.shape}, expected vectors along its last axis")
        if not value.flags.c_contiguous:
            raise DeviceError(f"{where}: found an array with strides {value.strides}, expected a contiguous one")
        return value


def _scalar(where: str, kind: str, value: Any) -> np.generic:
    """Return a number as exactly the declared type."""
    if kind == "float":
        if not isinstance(value, (int, float, np.floating, np.integer)):
            raise DeviceError(f"{where}: found a {type(value).__name__}, expected a number on the host")
        return np.float32(value)
    try:
        whole = operator.index(value)
    except TypeError as error:
        raise DeviceError(f"{where}: found a {type(value).__name__}, expected a whole number on the host") from error
    wanted = _WHOLE[kind]
    limits = np.iinfo(wanted)
    if not limits.min <= whole <= limits.max:
        raise DeviceError(f"{where}: {whole} does not fit; give smaller batches or boxes")
    return wanted(whole)
