"""How the two heaviest kernels depend on what they are built and launched with, on this machine's GPU.

The arguments are those of a settled engine's step at full band: poses as close together as they really are, and as many
slices inserted as there really are. Printed are microseconds of all calls of a step: insertion by the size of its
privatised core (-1: none) and the blocks a multiprocessor; scoring by the poses and threads of a block, at both
precisions of the cube. The first column is how the package has it.

Example: python -m benchmarks.gpu_tuning --box 128 --batch 300
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from benchmarks.common import parser, print_machine, print_table, write_json
from benchmarks.gpu_session import repeated, settled
from streamrecon.compute.cuda import device as device_module
from streamrecon.compute.cuda import poses as poses_module
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import CupyDevice, open_device
from streamrecon.compute.cuda.poses import CubePrecision
from streamrecon.compute.cuda.source import kernel_source

_STEPS, _REPEATS = 6, 10
_CORES, _BLOCKS = (8, 4, -1), (2, 4, 8)
_POSES, _THREADS = (16, 8, 4, 2), (128, 64)
_PRECISIONS: tuple[CubePrecision, ...] = ("single", "half")

Calls = dict[str, list[tuple[Any, ...]]]


def with_poses_per_block(number: int, poses: int) -> CupyDevice:
    """Return the device with kernels that score so many poses a block."""
    source = re.sub(r"#define POSES_PER_BLOCK \d+", f"#define POSES_PER_BLOCK {poses}", kernel_source())
    with mock.patch.object(device_module, "kernel_source", return_value=source):
        return open_device(number)


def arguments_of_a_step(backend: CudaBackend, box: int, size: int) -> Calls:
    """Return what the engine calls the two kernels with."""
    engine, batch = settled(backend, box), next(repeated(box, size))
    for _ in range(_STEPS):
        engine.fold(batch)
    calls: Calls = defaultdict(list)

    def noting(name: str) -> Callable[..., Any]:
        original = getattr(backend, name)

        def method(*args: Any) -> Any:
            calls[name].append(args)
            return original(*args)

        return method

    with mock.patch.multiple(backend, insert=noting("insert"), score=noting("score")):
        engine.fold(batch)
    return calls


def micros(device: CupyDevice, function: Callable[[], object]) -> float:
    """Return the device's time of a call, by its own clock."""
    function()
    cuda = device.xp.cuda
    began, ended = cuda.Event(), cuda.Event()
    began.record()
    for _ in range(_REPEATS):
        function()
    ended.record()
    ended.synchronize()
    return float(1e3 * cuda.get_elapsed_time(began, ended) / _REPEATS)


@contextmanager
def set_to(**values: int) -> Iterator[None]:
    """Let constants of the backend's part for poses have other values for a while."""
    before = {name: getattr(poses_module, f"_{name}") for name in values}
    for name, value in values.items():
        setattr(poses_module, f"_{name}", value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(poses_module, f"_{name}", value)


def all_of(method: Callable[..., object], calls: list[tuple[Any, ...]]) -> Callable[[], object]:
    """Return a function that makes all calls again."""

    def again() -> None:
        for args in calls:
            method(*args)

    return again


def tune(devices: dict[int, CupyDevice], box: int, size: int) -> dict[str, Any]:
    """Print the tables of a box size, and return them."""
    device = devices[_POSES[0]]
    backend = CudaBackend(device)
    calls = arguments_of_a_step(backend, box, size)
    slices = sum(int((args[7] >= args[8]).sum()) for args in calls["insert"])
    points = len(calls["insert"][0][2])
    print(f"\n{box} px, batches of {size}: {slices} slices of {points} points inserted, {slices / size:.0f} an image")
    insertion = []
    for core in _CORES:
        row: dict[str, Any] = {"privatised core": str(core)}
        for blocks in _BLOCKS:
            with set_to(CORE=core, BLOCKS_PER_MULTIPROCESSOR=blocks):
                row[f"{blocks} blocks"] = micros(device, all_of(backend.insert, calls["insert"]))
        row["us a slice"] = row[f"{_BLOCKS[0]} blocks"] / slices
        insertion.append(row)
    print_table(insertion)
    scoring = []
    for poses in _POSES:
        row = {"poses a block": str(poses)}
        for precision in _PRECISIONS:
            other = CudaBackend(devices[poses], precision)
            for threads in _THREADS:
                with set_to(POSES_PER_BLOCK=poses, SCORE_THREADS=threads):
                    row[f"{precision}, {threads} threads"] = micros(device, all_of(other.score, calls["score"]))
        scoring.append(row)
    print_table(scoring)
    return {"box": box, "batch": size, "slices": slices, "insertion": insertion, "scoring": scoring}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--box", type=int, nargs="*", default=[64, 128, 256])
    options.add_argument("--batch", type=int, nargs="*", default=[100, 300])
    options.add_argument("--device", type=int, default=0)
    chosen = options.parse_args()
    print_machine()
    devices = {poses: with_poses_per_block(chosen.device, poses) for poses in _POSES}
    print(devices[_POSES[0]].description)
    found = [tune(devices, box, size) for box in chosen.box for size in chosen.batch]
    write_json(chosen.json, {"device": devices[_POSES[0]].description, "tables": found})


if __name__ == "__main__":
    main()
