"""An array that refuses what CuPy's refuses, and counts what crosses between host and device. It holds NumPy's inside.

Stricter than CuPy where CuPy would copy without saying so: host arrays as indices, operands or assigned values;
iteration; assignment through repeated indices, whose outcome a device leaves open.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import numpy as np

_PLAIN = frozenset({"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags"})
_VIEWS = frozenset({"T", "real", "imag"})
_METHODS = frozenset(
    {"all", "any", "argmax", "argmin", "astype", "clip", "conj", "copy", "cumsum", "dot", "fill", "max", "mean", "min"}
    | {"prod", "ravel", "reshape", "round", "squeeze", "sum", "swapaxes", "take", "transpose", "var", "view"}
)


class OutOfMemoryError(MemoryError):
    """What the stand-in raises in place of CuPy's error of the same name."""


class Memory:
    """The memory and the traffic of one pretended device."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.used = 0
        self.peak = 0
        self.traffic: Counter[str] = Counter()  # "upload", "download", "sync"

    def take(self, n_bytes: int) -> None:
        if self.limit is not None and self.used + n_bytes > self.limit:
            raise OutOfMemoryError(f"out of memory allocating {n_bytes} bytes (allocated so far: {self.used} bytes)")
        self.used += n_bytes
        self.peak = max(self.peak, self.used)


MEMORY = Memory()


class _Buffer:
    """Keeps account of memory that arrays share."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = 0
        MEMORY.take(n_bytes)
        self._n_bytes = n_bytes

    def __del__(self) -> None:
        MEMORY.used -= self._n_bytes


class DeviceArray:
    """See the module's docstring."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment] # as CuPy's

    def __init__(self, inside: np.ndarray, owner: DeviceArray | None = None) -> None:
        self._inside = inside
        self._buffer = owner._buffer if owner is not None else _Buffer(inside.nbytes)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __getattr__(self, name: str) -> Any:
        if name in _PLAIN:
            return getattr(self._inside, name)
        if name in _VIEWS:
            return self._result(getattr(self._inside, name))
        if name in _METHODS:

            def method(*args: Any, **kwargs: Any) -> Any:
                plain = [inside(a) for a in args], {k: inside(v) for k, v in kwargs.items()}
                return self._result(getattr(self._inside, name)(*plain[0], **plain[1]))

            return method
        raise AttributeError(f"a device array has no {name!r}, or the stand-in does not know it")

    def _result(self, result: Any) -> Any:
        """Wrap a result; views share this array's memory."""
        if isinstance(result, np.ndarray) and result.base is not None and np.may_share_memory(result, self._inside):
            return DeviceArray(result, self)
        return wrap(result)

    def get(self) -> np.ndarray:
        MEMORY.traffic["download"] += 1
        return self._inside.copy()

    def __len__(self) -> int:
        return len(self._inside)

    def __iter__(self) -> Any:
        raise TypeError("iteration over a device array; index it")

    def __getitem__(self, index: Any) -> DeviceArray:
        result = self._inside[_index(index)]
        return self._result(result)

    def __setitem__(self, index: Any, value: Any) -> None:
        plain = _index(index)
        for part in plain if isinstance(plain, tuple) else (plain,):
            if isinstance(part, np.ndarray) and part.dtype != bool and len(np.unique(part)) != part.size:
                raise ValueError("assignment through repeated indices is undefined on a device")
        self._inside[plain] = inside(value)

    def _synchronise(self, convert: Any) -> Any:
        MEMORY.traffic["sync"] += 1
        return convert(self._inside)

    def __bool__(self) -> bool:
        return bool(self._synchronise(bool))

    def __float__(self) -> float:
        return float(self._synchronise(float))

    def __int__(self) -> int:
        return int(self._synchronise(int))

    def __index__(self) -> int:
        return int(self._synchronise(operator.index))

    def __neg__(self) -> Any:
        return wrap(-self._inside)

    def __abs__(self) -> Any:
        return wrap(abs(self._inside))

    def __invert__(self) -> Any:
        return wrap(~self._inside)


def inside(value: Any) -> Any:
    """Return what a device operation may see of an argument: no host arrays."""
    if isinstance(value, DeviceArray):
        return value._inside
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array of shape {value.shape} in a device operation")
    if isinstance(value, (tuple, list)):
        return type(value)(inside(v) for v in value)
    return value


def wrap(result: Any) -> Any:
    """Return NumPy's results as device arrays; also scalars, which a device keeps to itself."""
    if isinstance(result, (np.ndarray, np.generic)):
        return DeviceArray(np.array(result))
    if isinstance(result, (tuple, list)):
        return type(result)(wrap(r) for r in result)
    return result


def _index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_index(i) for i in index)
    if isinstance(index, (np.ndarray, list)):
        raise TypeError("a host array as index of a device array: it would be copied without a word")
    return index._inside if isinstance(index, DeviceArray) else index


def _binary(name: str) -> Any:
    function = getattr(operator, name)

    def forward(self: DeviceArray, other: Any) -> Any:
        return wrap(function(self._inside, inside(other)))

    def reflected(self: DeviceArray, other: Any) -> Any:
        return wrap(function(inside(other), self._inside))

    def in_place(self: DeviceArray, other: Any) -> Any:
        getattr(operator, "i" + name)(self._inside, inside(other))
        return self

    return forward, reflected, in_place


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    _forward, _reflected, _in_place = _binary(_name)
    setattr(DeviceArray, f"__{_name}__", _forward)
    setattr(DeviceArray, f"__r{_name}__", _reflected)
    setattr(DeviceArray, f"__i{_name}__", _in_place)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(DeviceArray, f"__{_name}__", _binary(_name)[0])
