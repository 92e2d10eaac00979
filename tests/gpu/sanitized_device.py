"""Compares the kernels of a real device with the CPU backend: what NVIDIA's compute-sanitizer is to watch.

Usage: compute-sanitizer --tool memcheck python -m tests.gpu.sanitized_device [BUG], BUG being one to plant first.
"""

from __future__ import annotations

import sys

from streamrecon.compute.cuda import device as device_module
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.compute.selftest import compare_with_cpu
from tests.gpu.sanitized import SIZES
from tests.gpu.seeded_bugs import BEYOND_THE_CUBE, PLAIN_ADD, REDUCTION_WITHOUT_BARRIER
from tests.gpu.shim.build import edited_source

BUGS = {"beyond": BEYOND_THE_CUBE, "barrier": REDUCTION_WITHOUT_BARRIER, "add": PLAIN_ADD}


def main(bug: str | None) -> None:
    if bug is not None:
        source = edited_source([BUGS[bug]])
        device_module.kernel_source = lambda: source
    device = open_device()
    # CuPy's pool cuts large pieces up: each array in memory of its own, so that what lies beyond it is nobody's
    device.xp.cuda.set_allocator(None)
    for precision in ("single", "half"):
        wrong = [c for c in compare_with_cpu(CudaBackend(device, precision), SIZES) if not c.good]
        if wrong and bug is None:
            sys.exit(f"results differ: {wrong}")
    print("all results agree" if bug is None else "compared")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
