"""Does cost stay linear in particles and memory flat, and what does a larger box cost?

**Particles.** A pool of simulated particles of 64 px is folded again and again, each time under new names (stack and
micrograph), as a session of that many would be; the band is held at 20 A: particles cost little. At each mark:

  us/particle  processor time (user and system, this process) a particle since the last mark
  resident     resident memory; "anon" is what belongs to the process alone, the rest are pages of files (the store of
               kept particles is memory-mapped and bounded, and the kernel takes such pages back as it likes)

**Boxes.** An engine in refinement, its halves on their own, at a box's band (0.875 of Nyquist) with the true map as
reference: processor milliseconds of one thread for an image that comes for the first time ("new": searched everywhere),
for one that is visited again ("revisit"), and of an update of the map, and what that makes in images a second and core
in a session of 20,000 particles (the more there are, the more seldom the map is updated). Other work on the machine
makes these a little worse, not wrong.

Example: python -m benchmarks.scale --particles 20000 --boxes 64 128
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.common import batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.compute.cpu import CpuBackend
from streamrecon.config.model import Config
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.kept import KeptParticles
from streamrecon.reconstruct.progress import Progress
from streamrecon.reconstruct.results import EngineState
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.simulate.microscope import Microscope, MicroscopeSettings
from streamrecon.worker.reconstruction import Reconstruction

_POOL = 2000
_MARKS = (10_000, 20_000, 50_000, 100_000, 200_000)
_BAND_ANGSTROM = 20.0
_SNR = 0.1
_SHARE_OF_NYQUIST = 0.875
_BOXES = (64, 96, 128, 192, 256)
_NEVER = 10**9
_HELD = 20_000  # particles in the sums, where it matters how often the map is updated


def _replayed(pool: list[ParticleBatch], turn: int) -> Iterator[ParticleBatch]:
    """Yield the pool's batches under names that no other turn has."""
    for batch in pool:
        table = batch.table
        table = replace(
            table,
            stack_names=tuple(f"turn_{turn}/{name}" for name in table.stack_names),
            micrograph_names=tuple(f"turn_{turn}/{name}" for name in table.micrograph_names or ()),
        )
        yield ParticleBatch(batch.images, table, tuple(table.identities()))


def _anonymous_bytes() -> int:
    """Return the process's resident memory that is not pages of files."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def growth(particles: int, threads: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Fold a pool of particles until there were so many; yield a row at each mark."""
    specimen = f1_atpase()
    pool = [batch for batch, _ in batches(specimen, min(_POOL, particles), _SNR, seed=1)]
    settings = EngineSettings(maximum_resolution_angstrom=_BAND_ANGSTROM, threads=threads)
    config = Config.model_validate({"session": {"output_dir": folder, "seed": 1}, "engine": settings})
    reconstruction = Reconstruction(config, lambda c, box, pixel: _engine(c, box, pixel, threads), folder / "poses")
    reconstruction.contrast = "protein_white"
    process, seen, turn, number = psutil.Process(), 0, 0, 0
    since, spent = 0, 0.0
    marks = [m for m in _MARKS if m < particles] + [particles]
    while seen < particles:
        for batch in _replayed(pool, turn):
            began = time.process_time()
            reconstruction.fold(number, batch)
            spent += time.process_time() - began
            number += 1
            seen += len(batch)
            if seen >= marks[0]:
                yield {
                    "particles": seen,
                    "us/particle": 1e6 * spent / (seen - since),
                    "resident MiB": round(process.memory_info().rss / 2**20),
                    "anon MiB": round(_anonymous_bytes() / 2**20),
                    "store MiB": round((reconstruction.store.n_bytes if reconstruction.store else 0) / 2**20),
                }
                since, spent = seen, 0.0
                marks.pop(0)
                if not marks:
                    break
        turn += 1
    reconstruction.close()


def _engine(config: Config, box: int, pixel_size: float, threads: int) -> Engine:
    return Engine(config.engine, box, pixel_size, CpuBackend(threads), config.session.seed, keep=True)


def box_row(box: int, n: int) -> dict[str, Any]:
    """Measure an engine in refinement at a box's band, with one thread.

    Parameters
    ----------
    box : int, pixels
    n : int
        Images that are looked at.
    """
    specimen = f1_atpase(box)
    k_max = int(_SHARE_OF_NYQUIST * box / 2)
    settings = EngineSettings(starts=1, threads=1, update_images=_NEVER)
    engine = Engine(settings, box, specimen.pixel_size_angstrom, CpuBackend(1), seed=1, keep=True)
    microscope = Microscope(
        specimen.volume,
        MicroscopeSettings(specimen.pixel_size_angstrom, particles_per_micrograph=n, snr=_SNR, seed=1),
    )
    taken = [microscope.micrograph(i, f"stack_{i}", f"mic_{i}") for i in range(2)]
    first, second = (ParticleBatch(t.images, t.table, tuple(t.table.identities())) for t in taken)
    engine.fold(first)
    engine.restore(_refining(engine.state(), specimen.volume * np.float32(microscope._signal_scale()), k_max))
    engine.fold(first)  # compiles, grows the sums, and learns the noise

    began = time.process_time()
    result = engine.fold(second)
    new = time.process_time() - began
    kept = result.kept
    if not isinstance(kept, KeptParticles):
        raise RuntimeError("the engine keeps nothing")
    engine.revisit(kept, np.zeros(n, bool))
    began = time.process_time()
    engine.revisit(kept, np.zeros(n, bool))
    again = time.process_time() - began
    began = time.process_time()
    start = engine._starts[0]
    start._map.update()
    update = time.process_time() - began
    every = _images_between_updates()
    per_new, per_visit = new / n + update / every, again / n + update / every
    return {
        "box": box,
        "shells": k_max,
        "images": n,
        "new ms": 1e3 * new / n,
        "revisit ms": 1e3 * again / n,
        "update ms": 1e3 * update,
        "updates ms/image": 1e3 * update / every,
        "new images/s": 1 / per_new,
        "visits/s": 1 / per_visit,
        "evaluations": round(result.evaluations / n),
        "peak MiB": round(_peak_bytes() / 2**20),
    }


def _images_between_updates() -> int:
    """Return how often an engine with so many images in its sums solves for the map."""
    progress = Progress(EngineSettings(), n_cells=1)
    progress.annealer.settled_at, progress.stages.split, progress.done.held = 0, True, _HELD
    for images in range(1, _HELD):
        progress.done.image_visits = images
        if progress.update_due:
            return images
    return _HELD


def _refining(state: EngineState, reference: np.ndarray[Any, np.dtype[np.float32]], k_max: int) -> EngineState:
    """Return an engine's state as if it had come to refinement at a band, its halves both at a given map."""
    arrays = {**state.arrays, "start0_reference_a": reference, "start0_reference_b": reference.copy()}
    scalars = {
        **state.scalars,
        "start0_k_max": k_max,
        "start0_settled_at": 0,
        "start0_annealing_progress": 1.0,
        "start0_stage_name": "refining",
        "start0_stage_split": True,
    }
    return EngineState(arrays, scalars)


def _peak_bytes() -> int:
    """Return the highest resident memory this process ever had."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=200_000, metavar="N", help="0: leave out (default: 200,000)")
    options.add_argument(
        "--boxes", type=int, nargs="*", default=list(_BOXES), metavar="PX", help="ascending, for peaks"
    )
    options.add_argument("--threads", type=int, default=1, metavar="N", help="for the first part (default: 1)")
    options.add_argument("--images", type=int, metavar="N", help="at each box (default: fewer, the larger it is)")
    chosen = options.parse_args()
    print_machine()
    result: dict[str, Any] = {}
    if chosen.particles:
        with tempfile.TemporaryDirectory() as name:
            rows = []
            for row in growth(chosen.particles, chosen.threads, Path(name)):
                rows.append(row)
                print(", ".join(f"{k} {v:.0f}" for k, v in row.items()), flush=True)
        print_table(rows)
        result["particles"] = rows
    curve = []
    for box in sorted(chosen.boxes):
        curve.append(box_row(box, chosen.images or max(10, 100 * 64**2 // box**2)))
        print(", ".join(f"{k} {v:.4g}" for k, v in curve[-1].items()), flush=True)
    print_table(curve)
    result["boxes"] = curve
    write_json(chosen.json, result)


if __name__ == "__main__":
    main()
