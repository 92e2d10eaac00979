"""A stand-in for the module ``cupy``: NumPy's functions on `DeviceArray`, where the real CuPy takes such arguments."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np

from tests.gpu.standin.array import MEMORY, DeviceArray, inside, wrap


class StandIn:
    """NumPy seen as CuPy.

    Parameters
    ----------
    real : module
        The real CuPy, or one of its submodules: what it lacks is refused here. It need not have a device.
    """

    ndarray = DeviceArray

    def __init__(self, real: ModuleType, numpy_module: Any = np) -> None:
        self._real = real
        self._numpy = numpy_module

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._real, name):
            raise AttributeError(f"the real {self._real.__name__} has no {name!r}")
        theirs, ours = getattr(self._real, name), getattr(self._numpy, name)
        if isinstance(ours, ModuleType):
            return StandIn(theirs, ours)
        if isinstance(ours, type) or not callable(ours):
            return ours

        def call(*args: Any, **kwargs: Any) -> Any:
            _check_arguments(theirs, name, args, kwargs)
            out = kwargs.get("out")
            result = ours(*[inside(a) for a in args], **{k: inside(v) for k, v in kwargs.items()})
            if out is not None:
                return out
            first = args[0] if args else None
            return first._result(result) if isinstance(first, DeviceArray) else wrap(result)

        return call

    def asarray(self, value: Any, dtype: Any = None) -> DeviceArray:
        if isinstance(value, DeviceArray):
            return wrap(np.asarray(value._inside, dtype))  # type: ignore[no-any-return]
        plain = np.array(value, dtype)
        if plain.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {plain.dtype}")
        MEMORY.traffic["upload"] += 1
        return DeviceArray(plain)

    def asnumpy(self, value: DeviceArray) -> np.ndarray:
        return value.get()

    def empty(self, shape: Any, dtype: Any = np.float64) -> DeviceArray:
        """Full of NaN, or of the largest integers: what was not written shows."""
        plain = np.empty(shape, dtype)
        plain.reshape(-1).view(np.uint8).fill(0xFF)
        return DeviceArray(plain)


def _check_arguments(real: Any, name: str, args: Any, kwargs: Any) -> None:
    try:
        signature = inspect.signature(real)
    except (ValueError, TypeError):
        return  # compiled without a signature, as ufuncs are
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"the real cupy.{name}{signature} would refuse this call: {error}") from error
