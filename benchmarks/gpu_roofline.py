"""A calculation, not a measurement: how fast could the CUDA backend be, by its kernels' FLOPs and bytes?

For boxes of 64, 128, 256 and 384 pixels, each kernel's cost an image (the formulas of benchmarks/kernel_costs.py), and
the shortest time it could take on an A100, an H100 and an RTX 4090:

    floor = max(FLOPs / peak, bytes / bandwidth)

with the vendor's float32 peak (no tensor cores) and memory bandwidth; where a kernel's working set fits the
second-level cache, that cache's bandwidth, which vendors do not state: a round value near public microbenchmarks. The
images themselves come over PCI Express under the kernels. Launches, synchronisation and what the host does are not
counted: the particles/s are an upper bound. What a device really does: benchmarks/gpu_session.py.

Example: python -m benchmarks.gpu_roofline
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import parser, print_table, write_json
from benchmarks.kernel_costs import Cost, Shapes, kernel_costs
from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points
from streamrecon.reconstruct.extent import band_limit, geometry_for
from streamrecon.reconstruct.half_maps import PAD
from streamrecon.reconstruct.mapping import map_box_for
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.settings import EngineSettings

BOXES = (64, 128, 256, 384)
_ANGSTROM = 204.8  # the box's length; the kernels do not depend on it
_INSERTED = 8.0  # slices an image, assumed: benchmarks/roofline.py prints what a run inserts
_CHUNK = 256  # images a piece


@dataclass(frozen=True)
class Gpu:
    """What a vendor says of a device, and what others measured of its cache.

    Attributes
    ----------
    name : str
    tflops : float
        float32, without tensor cores.
    memory_gbytes, cache_gbytes, bus_gbytes : float
        Bandwidths in GB/s: device memory, second-level cache (rounded microbenchmarks), PCI Express.
    cache_bytes : float
    """

    name: str
    tflops: float
    memory_gbytes: float
    cache_gbytes: float
    bus_gbytes: float
    cache_bytes: float


GPUS = (
    Gpu("A100 80GB SXM", 19.5, 2039, 4500, 32, 40 * 2**20),
    Gpu("H100 SXM", 66.9, 3350, 5500, 64, 50 * 2**20),
    Gpu("RTX 4090", 82.6, 1008, 5000, 32, 72 * 2**20),
)


def shapes_for(box: int) -> Shapes:
    """Return the sizes that the engine's default settings mean for a box at its widest band."""
    settings = EngineSettings()
    pixel = _ANGSTROM / box
    geometry = geometry_for(settings, box, pixel)
    k_max = band_limit(settings, box, pixel)
    estimator = PoseEstimator(settings, geometry, CpuBackend(1))
    points = half_plane_points(k_max)
    plan = estimator._plan(points, 1.0)
    grid, cells = estimator._search.grid, estimator.cells
    side = 2 * (PAD * k_max + 2) + 1
    map_box = map_box_for(k_max, box)
    counts = (settings.samples, *plan.samples)
    voxels = side * side * (side // 2 + 1)
    return Shapes(
        box=box,
        small_box=estimator.preparer._small_box,
        rings=grid.n_rings,
        half=grid.n_half,
        frequencies=len(grid.q),
        shifts=len(cells.shifts),
        directions=cells.n_pairs,
        angles=grid.n_psi // 2,
        points=len(points),
        samples=settings.samples,
        scored=sum(n * len(b.points) for n, b in zip(counts, plan.bands, strict=True)) / len(points),
        inserted=_INSERTED,
        chunk=_CHUNK,
        cube_bytes=8 * voxels,
        accumulator_bytes=16 * voxels,
        map_box=map_box,
        padded_box=PAD * map_box,
        update_images=settings.update_images,
    )


def floor_seconds(cost: Cost, gpu: Gpu) -> float:
    """Return the shortest time an image can take in a kernel."""
    bandwidth = gpu.cache_gbytes if cost.working_set <= gpu.cache_bytes else gpu.memory_gbytes
    return max(cost.flops / (gpu.tflops * 1e12), cost.bytes / (bandwidth * 1e9))


def table(box: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return a row for each kernel, in microseconds an image, and the particles/s on each device."""
    costs = kernel_costs(shapes_for(box))
    rows = []
    total = dict.fromkeys((gpu.name for gpu in GPUS), 0.0)
    for name, cost in costs.items():
        row: dict[str, Any] = {"kernel": name, "MFLOP": cost.flops / 1e6, "kB": cost.bytes / 1e3}
        for gpu in GPUS:
            seconds = floor_seconds(cost, gpu)
            total[gpu.name] += seconds
            row[f"{gpu.name} us"] = 1e6 * seconds
        rows.append(row)
    # the copy runs under the kernels: it bounds the rate only where it is the longer of the two
    copy = {gpu.name: 4 * box**2 / (gpu.bus_gbytes * 1e9) for gpu in GPUS}
    rows.append({"kernel": "copy of the image", "MFLOP": None, "kB": 4 * box**2 / 1e3,
                 **{f"{name} us": 1e6 * s for name, s in copy.items()}})  # fmt: skip
    return rows, {name: 1 / max(total[name], copy[name]) for name in total}


def main() -> None:
    chosen = parser(__doc__).parse_args()
    print("Calculated from formulas; nothing was run on a device.")
    for gpu in GPUS:
        print(
            f"{gpu.name}: {gpu.tflops} TFLOP/s, {gpu.memory_gbytes} GB/s, second-level cache "
            f"{gpu.cache_bytes / 2**20:.0f} MiB at about {gpu.cache_gbytes} GB/s, bus {gpu.bus_gbytes} GB/s"
        )
    result: dict[str, Any] = {}
    summary = []
    for box in BOXES:
        rows, rates = table(box)
        shapes = shapes_for(box)
        print(f"\n{box} px, {shapes.points} points, cube {shapes.cube_bytes / 2**20:.0f} MiB, one random start")
        print_table(rows)
        summary.append({"box": str(box), **{f"{name} particles/s": float(np.round(v)) for name, v in rates.items()}})
        result[f"box_{box}"] = {"kernels": rows, "particles_per_second": rates}
    print("\nparticles/s at the floor: an upper bound, calculated")
    print_table(summary)
    write_json(chosen.json, result)


if __name__ == "__main__":
    main()
