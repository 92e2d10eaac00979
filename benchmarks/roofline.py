"""How close does each kernel of the CPU backend come to what this machine can do?

For boxes of 64, 128 and 256 pixels (bands of 26, 56 and 112 shells), on one thread and on all: milliseconds an image,
GFLOP/s and GB/s by the formulas in benchmarks/kernel_costs.py, and the share of the roofline

    min(peak FLOP/s, bandwidth x FLOPs / bytes)

The peaks are this machine's own, measured in the same run: a float32 GEMM, and a memory copy of a working set as large
as the kernel's (so that a kernel whose data fits a cache is held against that cache, not against memory). Kernels are
timed where they run, one after the other on chunks of images, not each alone on warm data. The last lines add up:
images/s of a settled engine. About two minutes; run it on an idle machine.

Example: python -m benchmarks.roofline --box 64
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import f1_atpase, parser, print_machine, print_table, write_json
from benchmarks.kernel_chain import PROBE_SHARE, KernelChain
from benchmarks.kernel_costs import kernel_costs
from streamrecon.compute.backend import Array
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cpu_kernels.slices import TILE_POINTS

_CASES = {64: (26, 200), 128: (56, 60), 256: (112, 20)}  # box: band, images
_REPEATS = 8
# totals of source and destination for one thread: first-level cache to memory
_COPY_BYTES = (2**15, 2**18, 2**21, 2**24, 2**28)
_SEARCH = ("shift_rings", "angular DFT", "correlate", "best_cell")


def _best_seconds(backend: CpuBackend, function: Callable[[], object], repeats: int) -> float:
    """Return the shortest time in which every thread ran the function once, the threads side by side."""

    def timed() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return min(max(backend.run_each([timed] * backend.threads)) for _ in range(repeats))


def peak_gflops(backend: CpuBackend, n: int = 1024) -> float:
    """Return what all threads together reach in float32 GEMMs of their own."""
    a, b = np.random.default_rng(0).standard_normal((2, n, n)).astype(np.float32)
    return backend.threads * 2 * n**3 / _best_seconds(backend, lambda: a @ b, 60) / 1e9


def copy_gbytes(backend: CpuBackend, size: int) -> float:
    """Return what all threads together reach copying; ``size`` bytes of source and destination each, both counted."""
    n = size // 8
    # half a page between source and destination: at whole pages stores and loads get in each other's way
    buffers = [np.ones(2 * n + 512, np.float32) for _ in range(backend.threads)]
    pairs = [(buffer[:n], buffer[n + 512 :]) for buffer in buffers]
    passes = max(1, 2**26 // size)

    def copy(pair: tuple[Array, Array]) -> float:
        source, destination = pair
        began = time.perf_counter()
        for _ in range(passes):
            np.copyto(destination, source)
        return time.perf_counter() - began

    best = min(max(backend.run_each([partial(copy, pair) for pair in pairs])) for _ in range(2 * _REPEATS))
    return backend.threads * passes * size / best / 1e9


def measure(box: int, threads: int, ceilings: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each kernel, and the sum."""
    k_max, n = _CASES[box]
    chain = KernelChain(f1_atpase(box), k_max, n, threads)
    chain.measure()  # compiles, and touches every page
    runs = [chain.measure() for _ in range(_REPEATS if box < 256 else 2)]
    seconds = {name: min(run[name] for run in runs) for name in runs[0]}
    costs = kernel_costs(replace(chain.shapes(), tile_points=TILE_POINTS))
    rows = []
    total = 0.0
    for name in [*costs, *(s for s in seconds if s not in costs and s != "the rest"), "the rest"]:
        uses = 1 + PROBE_SHARE if name in _SEARCH else 1.0
        total += uses * seconds[name]
        row: dict[str, Any] = {"kernel": name, "ms/image": 1e3 * seconds[name]}
        cost = costs.get(name)
        rates = dict.fromkeys(("MFLOP", "kB", "GFLOP/s", "GB/s", "roof GFLOP/s", "of roof"))
        if cost is not None:
            size = next((s for s in ceilings["copy"] if s >= cost.working_set), max(ceilings["copy"]))
            roof = min(ceilings["gemm"], ceilings["copy"][size] * cost.flops / cost.bytes)
            rate = cost.flops / seconds[name] / 1e9
            rates = {
                "MFLOP": cost.flops / 1e6, "kB": cost.bytes / 1e3, "GFLOP/s": rate,
                "GB/s": cost.bytes / seconds[name] / 1e9, "roof GFLOP/s": roof, "of roof": f"{rate / roof:.0%}",
            }  # fmt: skip
        rows.append({**row, **rates})
    for row in rows:
        uses = 1 + PROBE_SHARE if row["kernel"] in _SEARCH else 1.0
        row["of time"] = f"{uses * seconds[row['kernel']] / total:.0%}"
    about = {"images_per_second": 1 / total, "slices_inserted_per_image": chain.inserted}
    return rows, about


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--box", type=int, choices=list(_CASES), help="only this box size")
    chosen = options.parse_args()
    print_machine()
    result: dict[str, Any] = {}
    for threads in (1, CpuBackend().threads):
        backend = CpuBackend(threads)
        copy = {size: copy_gbytes(backend, size) for size in _COPY_BYTES}
        ceilings = {"gemm": peak_gflops(backend), "copy": copy}
        copies = ", ".join(f"{gb:.0f} at {size // 1024} KiB" for size, gb in copy.items())
        print(f"\n{threads} thread(s): GEMM {ceilings['gemm']:.0f} GFLOP/s; copy, GB/s: {copies}")
        result[f"threads_{threads}"] = {"gemm_gflops": ceilings["gemm"], "copy_gbytes": copy}
        for box, (k_max, n) in _CASES.items():
            if chosen.box not in (None, box):
                continue
            rows, about = measure(box, threads, ceilings)
            print(f"\n{box} px, {k_max} shells, {threads} thread(s), {n} images")
            print_table(rows)
            print(
                f"sum: {about['images_per_second']:.0f} images/s "
                f"({about['slices_inserted_per_image']:.1f} slices inserted an image)",
                flush=True,
            )
            result[f"threads_{threads}"][f"box_{box}"] = {"kernels": rows, **about}
    write_json(chosen.json, result)


if __name__ == "__main__":
    main()
