"""A session on this machine's GPU and on its CPU: the same simulated particles, the same seed, from a random start.

F1-ATPase at 64 pixels, SNR 0.1, default settings. Prints particles/s of both by stage (one image visit a particle; two
random starts at first), each map's resolution against the truth, and the FSC between the two maps, both brought onto
the truth: a draw that rounding sends the other way makes two runs differ as two seeds do.

Then throughput alone, at larger boxes and the full band from the first particle on (one start, the map solved every
300 images), on batches of several sizes, and of visiting particles again. As the daemon does, every session hands out
what it keeps of a particle.

Example: python -m benchmarks.gpu_session --particles 6000
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Specimen, batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compute.backend import Backend
from streamrecon.compute.cpu import CpuBackend
from streamrecon.compute.cuda.backend import CudaBackend
from streamrecon.compute.cuda.device import open_device
from streamrecon.compute.cuda.poses import CubePrecision
from streamrecon.fourier.shells import first_shell_below
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.extent import band_limit
from streamrecon.reconstruct.settings import EngineSettings

_BOX, _SNR, _SEED = 64, 0.1, 0
_WARM_UP = 2  # batches: kernels are compiled, tables and plans made
_SIMULATED = 100  # images of a large box, used again and again: what they show does not change how long they take


def ab_initio(
    backend: Backend, data: Sequence[ParticleBatch], specimen: Specimen
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Fold all batches from a random start; return the map, brought onto the truth, and a row of the table."""
    engine = Engine(EngineSettings(), _BOX, specimen.pixel_size_angstrom, backend, _SEED, keep=True)
    images: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for number, batch in enumerate(data):
        stage = engine.status.stage + (f" ({engine.starts} starts)" if engine.starts > 1 else "")
        result = engine.fold(batch)
        if number >= _WARM_UP:
            images[stage] += len(batch)
            seconds[stage] += result.step_seconds
    found = engine.snapshot()
    aligned = align_volumes(specimen.volume, found.volume, specimen.pixel_size_angstrom)
    against_truth = fsc_between(specimen.volume, aligned.volume, specimen.pixel_size_angstrom)
    row = {
        "backend": backend.name,
        **{f"{stage} /s": images[stage] / seconds[stage] for stage in images},
        "stage": found.status.stage,
        "resolution A": found.resolution_angstrom,
        "to the truth A (0.5)": against_truth.resolution_05_angstrom,
    }
    return aligned.volume, row


def full_band(box: int) -> tuple[EngineSettings, float]:
    """Return settings with which the whole band is used from the first particle on, and the pixel size."""
    pixel_size = 204.8 / box
    settings = EngineSettings(starts=1)
    return replace(settings, start_shells=band_limit(settings, box, pixel_size)), pixel_size


def repeated(box: int, size: int) -> Iterator[ParticleBatch]:
    """Yield batches of a size for ever, from a few simulated images."""
    ((few, _),) = batches(f1_atpase(box), _SIMULATED, _SNR, 1, _SIMULATED)
    batch = few.select(np.arange(size) % _SIMULATED)
    while True:
        yield batch


def settled(backend: Backend, box: int) -> Engine:
    """Return an engine at full band that solves for the map as seldom as after the search."""
    settings, pixel_size = full_band(box)
    engine = Engine(settings, box, pixel_size, backend, _SEED, keep=True)
    engine._starts[0]._progress.annealer.settled_at = 1
    return engine


def rate(backend: Backend, box: int, size: int, least_seconds: float = 2.0) -> float:
    """Return the particles/s of steps at full band."""
    engine = settled(backend, box)
    steps = repeated(box, size)
    for _ in range(_WARM_UP):
        engine.fold(next(steps))
    n, began = 0, time.perf_counter()
    while time.perf_counter() - began < least_seconds:
        n += size
        engine.fold(next(steps))
    return n / (time.perf_counter() - began)


def revisit_rate(backend: Backend, box: int, size: int, least_seconds: float = 2.0) -> float:
    """Return how many particles/s are visited again around their known poses."""
    engine = settled(backend, box)
    steps = repeated(box, size)
    engine.fold(next(steps))  # of another frame of reference than those that follow
    kept = engine.fold(next(steps)).kept
    if kept is None:
        raise RuntimeError("the engine kept nothing")
    nowhere = np.zeros(size, bool)
    for _ in range(_WARM_UP):
        engine.revisit(kept, nowhere)
    n, began = 0, time.perf_counter()
    while time.perf_counter() - began < least_seconds:
        n += size
        engine.revisit(kept, nowhere)
    return n / (time.perf_counter() - began)


def shells_that_agree(one: NDArray[np.float32], other: NDArray[np.float32], pixel_size: float) -> dict[str, int]:
    """Return up to which shell two maps agree."""
    curve = fsc_between(one, other, pixel_size).fsc
    return {f"shells with FSC above {level}": first_shell_below(curve, level) - 1 for level in (0.99, 0.9, 0.5)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=6000)
    options.add_argument("--batch", type=int, default=100)
    options.add_argument("--boxes", type=int, nargs="*", default=[64, 128, 256], help="of the throughput")
    options.add_argument("--sizes", type=int, nargs="*", default=[100, 300, 1000], help="of the throughput's batches")
    options.add_argument("--device", type=int, default=0)
    options.add_argument("--cube-precision", choices=["single", "half"], default="single")
    options.add_argument("--tf32", action="store_true")
    chosen = options.parse_args()
    print_machine()
    device = open_device(chosen.device, tf32=chosen.tf32)
    precision: CubePrecision = chosen.cube_precision
    print(f"{device.description}; cube_precision {precision}, tf32 {chosen.tf32}")
    result: dict[str, Any] = {"device": device.description}
    if chosen.particles:
        specimen = f1_atpase(_BOX)
        data = [b for b, _ in batches(specimen, chosen.particles, _SNR, _SEED, chosen.batch)]
        pairs = [ab_initio(b, data, specimen) for b in (CudaBackend(device, precision), CpuBackend())]
        agree = shells_that_agree(pairs[0][0], pairs[1][0], specimen.pixel_size_angstrom)
        print(f"\n{chosen.particles} particles, {_BOX} px, SNR {_SNR}, batches of {chosen.batch}, seed {_SEED}")
        for _, row in pairs:
            print_table([row])
        print("between the two maps:", agree, "of", _BOX // 2, flush=True)
        result["ab_initio"] = {"rows": [row for _, row in pairs], **agree}
    rows = []
    for box in chosen.boxes:
        row = {"box": str(box)}
        for size in chosen.sizes:
            row[f"cuda, batches of {size}"] = rate(CudaBackend(device, precision), box, size)
        row["cuda, visited again"] = revisit_rate(CudaBackend(device, precision), box, max(chosen.sizes))
        row[f"cpu, batches of {chosen.batch}"] = rate(CpuBackend(), box, chosen.batch)
        rows.append(row)
        print("\nparticles/s at full band, one start")
        print_table([row])
    result["full_band"] = rows
    write_json(chosen.json, result)


if __name__ == "__main__":
    main()
