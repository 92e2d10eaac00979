"""Compiles the package's kernels for the host, and calls them as CuPy's would be called."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamrecon.compute.cuda.source import Signature, kernel_source, parse_signatures

_SHIM = Path(__file__).parent / "cuda_on_host.h"
_COMMON = ("-std=c++17", "-shared", "-fPIC", "-pthread", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function")
# As nvcc's default and --use_fast_math allow, one by one: -ffast-math would link code that flushes subnormal numbers to
# zero in the whole process, and whatever runs after these tests with them.
_REORDER = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math")
FLAGS = {
    "fast": ("-O2", *_REORDER, "-march=native"),
    "address": ("-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer"),
    "thread": ("-O1", "-g", "-fsanitize=thread", "-DSHIM_THREADS"),
}
_SCALARS = {"int": ctypes.c_int, "long long": ctypes.c_longlong, "float": ctypes.c_float}
_ERRORS = {1: "a launch that a device would refuse", 2: "a deadlock: threads wait at different barriers"}


def edited_source(edits: Sequence[tuple[str, str]] = ()) -> str:
    """Return the kernels' source with bugs planted: each edit replaces a text that occurs exactly once."""
    source = kernel_source()
    for old, new in edits:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} occurs {source.count(old)} times in the kernels, expected once")
        source = source.replace(old, new)
    return source


def _entry(signature: Signature) -> str:
    """A C function that takes a launch's shape and the addresses of its arguments."""
    casts = ", ".join(f"*({p.type}*)a[{i}]" for i, p in enumerate(signature.parameters))
    name = signature.name
    return (
        f"static void call_{name}(void** a) {{ {name}({casts}); }}\n"
        f'extern "C" int launch_{name}(const unsigned* shape, size_t shared, unsigned seed, void** a)\n'
        f"{{ return shim::launch({{&call_{name}, a}}, shape, shared, seed); }}\n"
    )


def build(folder: Path, kind: str = "fast", edits: Sequence[tuple[str, str]] = ()) -> Path:
    """Compile once a content, and return the shared library."""
    source = edited_source(edits)
    entries = "".join(_entry(s) for s in parse_signatures(source).values())
    text = f'#include "{_SHIM}"\n{source}\n#line 1 "entries"\n{entries}'
    key = hashlib.sha256((text + _SHIM.read_text() + repr(FLAGS[kind])).encode()).hexdigest()[:16]
    library = folder / f"kernels_{kind}_{key}.so"
    if not library.exists():
        unit, temporary = folder / f"{key}_{kind}.cpp", folder / f"{key}_{kind}_{os.getpid()}.so"
        unit.write_text(text)
        command = ["g++", *_COMMON, *FLAGS[kind], str(unit), "-o", str(temporary)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        temporary.replace(library)
    return library


class HostKernels:
    """The kernels of a library.

    Parameters
    ----------
    library : Path
    unwrap : callable
        From what stands for a device array to its memory, a NumPy array; only here does anybody look inside.
    source : str
        What the library was made from.
    """

    def __init__(self, library: Path, unwrap: Callable[[Any], np.ndarray], source: str | None = None) -> None:
        self._library = ctypes.CDLL(str(library))
        self._unwrap = unwrap
        self._signatures = parse_signatures(source or kernel_source())
        self.seed = 0
        self.launches: dict[str, int] = {}

    def function(self, name: str) -> Callable[..., None]:
        entry = getattr(self._library, f"launch_{name}")
        parameters = self._signatures[name].parameters

        def launch(grid: tuple[int, int], block: tuple[int], args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
            values: list[Any] = []
            for parameter, value in zip(parameters, args, strict=True):
                if parameter.is_pointer:
                    values.append(ctypes.c_void_p(self._unwrap(value).ctypes.data))
                else:
                    # the bytes as they are: a scalar of the wrong type is the wrong bytes, as on a device
                    raw = np.asarray(value).tobytes().ljust(8, b"\0")
                    values.append(ctypes.c_ulonglong.from_buffer_copy(raw))
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
            shape = (ctypes.c_uint * 3)(*grid, block[0])
            self.seed += 1
            self.launches[name] = self.launches.get(name, 0) + 1
            code = entry(shape, ctypes.c_size_t(shared_mem), ctypes.c_uint(self.seed), pointers)
            if code:
                raise RuntimeError(f"{name}: {_ERRORS[code]}")

        return launch
