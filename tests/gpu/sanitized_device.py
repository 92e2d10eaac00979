"""Compares the kernels of a real device with the CPU backend: what NVIDIA's compute-sanitizer is to watch.

Usage: compute-sanitizer --tool memcheck python -m tests.gpu.sanitized_device
"""

from __future__ import annotations

import sys

from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.compute.selftest import compare_with_cpu
from tests.gpu.sanitized import SIZES


def main() -> None:
    device = open_device()
    # CuPy's pool cuts large pieces up: each array in memory of its own, so that what lies beyond it is nobody's
    device.xp.cuda.set_allocator(None)
    for precision in ("single", "half"):
        wrong = [c for c in compare_with_cpu(CudaBackend(device, precision), SIZES) if not c.good]
        if wrong:
            sys.exit(f"results differ: {wrong}")
    print("all results agree")


if __name__ == "__main__":
    main()
