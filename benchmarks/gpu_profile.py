"""Where a step's time goes on this machine's GPU: each kernel's own time, and what the host does meanwhile.

A settled engine at full band folds batches of simulated particles. Printed are: the step's wall time; the time in which
the device worked (its kernels and copies, overlaps counted once), whose rest is what the host keeps it waiting;
microseconds an image of the kernels that take longest; the host's functions that take longest. The kernels' times come
from PyTorch's profiler, which sees every kernel of the process (CUPTI); PyTorch must be installed for this alone.

Example: python -m benchmarks.gpu_profile --box 128 --batch 100
"""

from __future__ import annotations

import cProfile
import importlib
import json
import pstats
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.common import parser, print_machine, print_table, write_json
from benchmarks.gpu_session import repeated, settled
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.compute.cuda.poses import CubePrecision
from streamrecon.reconstruct.engine import Engine

_WARM_UP, _STEPS, _SHOWN = 4, 12, 18
_ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}


def busy_microseconds(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def traced(engine: Engine, batch: Any, steps: int) -> tuple[float, list[dict[str, Any]]]:
    """Return the wall seconds of some steps, and the profiler's events on the device."""
    torch = importlib.import_module("torch")
    torch.zeros(1, device="cuda")
    profiler = importlib.import_module("torch.profiler")
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as found:
        began = time.perf_counter()
        for _ in range(steps):
            engine.fold(batch)
        wall = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        found.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return wall, [e for e in events if e.get("ph") == "X" and e.get("cat") in _ON_DEVICE]


def profile(backend: CudaBackend, box: int, size: int) -> dict[str, Any]:
    """Print where the time of a step goes, and return it."""
    batch = next(repeated(box, size))
    engine = settled(backend, box)
    for _ in range(_WARM_UP):
        engine.fold(batch)
    began = time.perf_counter()
    for _ in range(_STEPS):
        engine.fold(batch)
    wall = time.perf_counter() - began
    seconds_traced, events = traced(engine, batch, _STEPS)
    busy = busy_microseconds([(e["ts"], e["ts"] + e["dur"]) for e in events])
    images = size * _STEPS
    print(
        f"\n{box} px, batches of {size}: {1e3 * wall / _STEPS:.2f} ms a step, {images / wall:.0f} particles/s; the "
        f"device works {1e-3 * busy / _STEPS:.2f} ms of it (traced: {1e3 * seconds_traced / _STEPS:.2f} ms a step), "
        f"{len(events) / _STEPS:.0f} kernels and copies a step"
    )
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for event in events:
        name = event["name"].split("(")[0][:60]
        total[name] += event["dur"]
        count[name] += 1
    longest = sorted(total, key=lambda name: -total[name])[:_SHOWN]
    rows = [
        {"kernel": n, "us/image": total[n] / images, "a step": count[n] / _STEPS, "us each": total[n] / count[n]}
        for n in longest
    ]
    print_table(rows)
    host = cProfile.Profile()
    host.enable()
    for _ in range(_STEPS):
        engine.fold(batch)
    host.disable()
    print("\nthe host's functions (profiled: slower than they are), milliseconds a step in themselves")
    stats = pstats.Stats(host).stats  # type: ignore[attr-defined] # there, but not in the type stubs
    by_self = sorted(stats.items(), key=lambda item: -item[1][2])[:_SHOWN]
    print_table(
        [
            {"function": f"{Path(file).name}:{line} {name}"[:60], "ms": 1e3 * own / _STEPS, "calls": calls / _STEPS}
            for (file, line, name), (_, calls, own, _, _) in by_self
        ]
    )
    return {"box": box, "batch": size, "step_ms": 1e3 * wall / _STEPS, "busy_ms": 1e-3 * busy / _STEPS, "kernels": rows}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--box", type=int, nargs="*", default=[64, 128, 256])
    options.add_argument("--batch", type=int, nargs="*", default=[100, 1000])
    options.add_argument("--device", type=int, default=0)
    options.add_argument("--cube-precision", choices=["single", "half"], default="single")
    options.add_argument("--tf32", action="store_true")
    chosen = options.parse_args()
    print_machine()
    device = open_device(chosen.device, tf32=chosen.tf32)
    precision: CubePrecision = chosen.cube_precision
    print(f"{device.description}; cube_precision {precision}, tf32 {chosen.tf32}")
    found = [profile(CudaBackend(device, precision), box, size) for box in chosen.box for size in chosen.batch]
    write_json(chosen.json, {"device": device.description, "profiles": found})


if __name__ == "__main__":
    main()
