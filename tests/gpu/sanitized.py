"""Compares the kernels of a library with the CPU backend: what the sanitizer tests run in a process of its own.

Usage: python -m tests.gpu.sanitized LIBRARY PART [PART ...], the parts being methods of the comparison's scene.
"""

from __future__ import annotations

import sys
from pathlib import Path

from streamrecon.compute import selftest
from streamrecon.compute.cuda.backend import CudaBackend
from tests.gpu.standin.device import StandInDevice

PARTS = ("images", "search", "poses", "volumes")
SIZES = selftest.CheckSizes(box=32, k_max=7, images=3, samples=6, rings=5, in_plane_angles=12, direction_order=1)


def main(library: Path, parts: list[str]) -> None:
    for precision, some in (("single", parts), ("half", [p for p in parts if p == "poses"])):
        if not some:
            continue  # only poses know two precisions
        scene = selftest.Scene(CudaBackend(StandInDevice(library), precision), SIZES)
        wrong = [c for part in some for c in getattr(scene, part)() if not c.good]
        if wrong:
            sys.exit(f"results differ: {wrong}")
    print("all results agree")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
