"""The CUDA backend on this machine's GPU: each method's time an image against the calculated floor, and particles/s.

For boxes of 64, 128 and 256 pixels: microseconds an image of every method of the backend, data on the device, the
device waited for; the floor is that of benchmarks/gpu_roofline.py for the nearest of its devices by name (none if the
device is not among them). Then the engine as a whole on simulated particles, and the same on this machine's CPU. First
the results are compared with the CPU's: a wrong kernel has no speed.

Example: python -m benchmarks.gpu --box 128
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import parser, print_machine, print_table, write_json
from benchmarks.gpu_roofline import GPUS, Gpu, floor_seconds, shapes_for
from benchmarks.kernel_costs import kernel_costs
from streamrecon.cli.check import particles_per_second
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.compute.cuda.poses import CubePrecision
from streamrecon.compute.selftest import CheckSizes, Scene, compare_with_cpu

_CASES = {64: (29, 256), 128: (58, 128), 256: (118, 32)}  # box: band, images
_REPEATS = 10
_PAD = 2
# the kernel of the roofline that bounds a method; its cost is of all the poses scored for an image, or inserted
_FLOORS = {
    "image_transforms": "image FFT",
    "rings": "polar transform",
    "score": "score_poses",
    "insert": "insert_slices",
}


def nearest(description: str) -> Gpu | None:
    """Return the device of the roofline that a description names, None if none."""
    # "A100 80GB SXM" is known by its first word, "RTX 4090" by its last
    known = {"A100": 0, "H100": 1, "RTX 4090": 2}
    return next((GPUS[i] for word, i in known.items() if word in description), None)


def seconds_of(backend: CudaBackend, function: Callable[[], object]) -> float:
    """Return the mean time of a call, the device waited for before and after."""

    def wait() -> None:
        backend.to_host(backend.zeros((1,)))

    function()
    wait()
    began = time.perf_counter()
    for _ in range(_REPEATS):
        function()
    wait()
    return (time.perf_counter() - began) / _REPEATS


def calls_of(scene: Scene, backend: CudaBackend) -> dict[str, Callable[[], object]]:
    """Return the methods worth timing, on data that is on the device already."""
    s, move = scene.sizes, backend.to_device
    pictures, mask = move(scene.pictures), move(np.ones((s.box, s.box), np.float32))
    transforms, weighed = move(scene.transforms), move(scene.weighed)
    cube, rotation, shift = move(scene.cube), move(scene.rotation), move(scene.shift)
    weight = move(np.full((s.images, s.samples), 1 / s.samples, np.float32))
    grid = backend.zeros((2 * scene.radius + 1, 2 * scene.radius + 1, scene.radius + 1, 4))
    coefficients, step = move(scene.coefficients), move(scene.step)
    volume = move(scene.volume)
    box, points = s.box, scene.points
    return {
        "upload of the images": lambda: move(scene.pictures),
        "image_transforms": lambda: backend.image_transforms(pictures, mask),
        "half_plane": lambda: backend.half_plane(transforms, points),
        "ctf": lambda: backend.ctf(coefficients, points.kx, points.ky, step),
        "shell_power": lambda: backend.shell_power(transforms, box // 2 + 1),
        "score": lambda: backend.score(cube, _PAD, points, box, weighed, rotation, shift),
        "insert": lambda: backend.insert(grid, _PAD, points, box, weighed, rotation, shift, weight, 1e-3, 1.0),
        "cube": lambda: backend.cube(volume, _PAD, scene.radius),
    }


def measure(backend: CudaBackend, box: int, k_max: int, images: int) -> list[dict[str, Any]]:
    """Return a row for each method."""
    sizes = CheckSizes(box=box, k_max=k_max, images=images, samples=64, rings=14, in_plane_angles=48)
    gpu = nearest(backend.device.description)
    shapes = shapes_for(box)
    costs = kernel_costs(shapes)
    # the roofline counts what an image costs in a session; here all samples are scored once, and inserted
    share = {"score": sizes.samples / shapes.scored, "insert": sizes.samples / shapes.inserted}
    rows = []
    for name, call in calls_of(Scene(backend, sizes), backend).items():
        micros = 1e6 * seconds_of(backend, call) / images
        floor = None
        if gpu is not None and name in _FLOORS:
            floor = 1e6 * floor_seconds(costs[_FLOORS[name]], gpu) * share.get(name, 1.0)
        rows.append(
            {
                "method": name,
                "us/image": micros,
                "floor us": floor,
                "of floor": None if floor is None else floor / micros,
            }
        )
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--box", type=int, choices=list(_CASES), help="only this box size")
    options.add_argument("--device", type=int, default=0)
    options.add_argument("--cube-precision", choices=["single", "half"], default="single")
    options.add_argument("--tf32", action="store_true")
    chosen = options.parse_args()
    print_machine()
    device = open_device(chosen.device, tf32=chosen.tf32)
    precision: CubePrecision = chosen.cube_precision
    backend = CudaBackend(device, precision)
    print(f"{device.description}; cube_precision {precision}, tf32 {chosen.tf32}")
    wrong = [c for c in compare_with_cpu(backend, tf32=chosen.tf32) if not c.good]
    if wrong:
        raise SystemExit(f"results differ from the CPU's: {wrong}")
    result: dict[str, Any] = {"device": device.description}
    for box, (k_max, images) in _CASES.items():
        if chosen.box in (None, box):
            rows = measure(backend, box, k_max, images)
            print(f"\n{box} px, {k_max} shells, {images} images")
            print_table(rows)
            result[f"box_{box}"] = rows
    for one in (backend, CpuBackend()):
        result[f"particles_per_second_{one.name}"] = rate = particles_per_second(one, 2000)
        print(f"engine on the {one.name}, 64 px: {rate:.0f} particles/s")
    write_json(chosen.json, result)


if __name__ == "__main__":
    main()
