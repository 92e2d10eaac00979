"""The CUDA C source as one text, and what its kernels expect: read from the source, so that they cannot differ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "kernels"
_FILES = (
    "common.cuh", "images.cu", "cells.cu", "draws.cu", "slices.cu", "scatter.cuh", "insert.cu", "normal.cu",
    "sampling.cu", "grids.cu",
)  # fmt: skip
_KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\((\d+)\)\s+)?(\w+)\(([^)]*)\)')
# CuPy's own defaults, written out so that the tests compile exactly what users do
OPTIONS = ("-std=c++17", "-ftz=true")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    Attributes
    ----------
    name : str
    type : str
        As in C, without qualifiers: "float", "float2*" ...
    constant : bool
        Whether it points to what the kernel only reads.
    """

    name: str
    type: str
    constant: bool

    @property
    def is_pointer(self) -> bool:
        """Return whether an array goes here."""
        return self.type.endswith("*")


@dataclass(frozen=True)
class Signature:
    """A kernel's name, parameters and the most threads a block of it may have."""

    name: str
    parameters: tuple[Parameter, ...]
    max_threads: int


def kernel_source() -> str:
    """Return all kernels as one translation unit; messages of a compiler name the file and line they are from."""
    return "".join(f'#line 1 "{name}"\n{(FOLDER / name).read_text(encoding="utf-8")}' for name in _FILES)


def _parameter(text: str) -> Parameter:
    words = text.replace("*", " * ").replace("__restrict__", " ").split()
    constant = "const" in words
    kept = [w for w in words if w != "const"]
    *kind, name = kept
    joined = " ".join(w for w in kind if w != "*")
    return Parameter(name, joined + ("*" if "*" in kind else ""), constant)


def parse_signatures(source: str) -> dict[str, Signature]:
    """Return the signature of every kernel in a source."""
    found = {}
    for bound, name, parameters in _KERNEL.findall(source):
        parsed = tuple(_parameter(p) for p in parameters.split(","))
        found[name] = Signature(name, parsed, int(bound) if bound else 1024)
    return found


@cache
def signatures() -> dict[str, Signature]:
    """Return the signature of every kernel of the package."""
    return parse_signatures(kernel_source())
