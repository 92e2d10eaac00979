"""One device, two, and so on: particles/s, what the first waits for, and how far the map is from that of one.

Steps at the full band from the first particle on, one start, from one state for all: F1-ATPase, SNR 0.1. The map is
solved every 300 images. Maps (by the largest value of one device's) and poses are compared after the first step: later
ones follow from them, and a draw that rounding sends the other way takes others with it.

Examples: python -m benchmarks.devices --devices 0 1 2 3 --boxes 128 256
          python -m benchmarks.devices --backend cpu --devices 0 1 --boxes 64
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import batches, f1_atpase, parser, print_machine, print_table, write_json
from streamrecon.config.model import Config
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.extent import band_limit
from streamrecon.reconstruct.results import EngineState
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.worker.engine import make_engine
from streamrecon.worker.ranks.shared_engine import SharedEngine

_SNR, _SEED = 0.1, 0
_SIMULATED = 100  # images, used again and again: what they show does not change how long they take
_WARM_UP = 2  # batches: kernels are compiled, tables and plans made


def configured(backend: str, devices: list[int], box: int) -> Config:
    """Return the configuration of a session at full band."""
    settings = EngineSettings(starts=1)
    settings = replace(settings, start_shells=band_limit(settings, box, 204.8 / box))
    compute = {"backend": backend, "devices": devices}
    return Config.model_validate({"engine": asdict(settings), "compute": compute, "session": {"seed": _SEED}})


def settled(state: EngineState) -> EngineState:
    """Return a state that solves for the map as seldom as after the search, in copies."""
    scalars = {**state.scalars, "start0_settled_at": 1}
    return EngineState({name: array.copy() for name, array in state.arrays.items()}, scalars)


def run(
    config: Config, box: int, data: list[ParticleBatch], steps: int, state: EngineState | None
) -> tuple[dict[str, Any], EngineState, NDArray[np.float32], NDArray[np.float32]]:
    """Return a row of the table, the state after the warm-up, and map and rotations after the first step."""
    engine = make_engine(config, box, 204.8 / box)
    try:
        for batch in data[:_WARM_UP]:
            engine.fold(batch)
        state = state or settled(engine.state())
        engine.restore(settled(state))
        shared = engine if isinstance(engine, SharedEngine) else None
        waited = shared.waited_seconds if shared else 0.0
        rotation = engine.fold(data[0]).rotation
        found = engine.snapshot().volume
        began = time.perf_counter()
        for number in range(steps):
            engine.fold(data[number % len(data)])
        seconds = time.perf_counter() - began
        row = {
            "devices": str(len(config.compute.devices)),
            "particles/s": steps * len(data[0]) / seconds,
            "waited": (shared.waited_seconds - waited) / seconds if shared else 0.0,
        }
    finally:
        engine.close()
    return row, state, found, rotation


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backend", choices=["cuda", "cpu"], default="cuda")
    options.add_argument("--devices", type=int, nargs="+", default=[0, 1])
    options.add_argument("--boxes", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batch", type=int, default=300)
    options.add_argument("--steps", type=int, default=10)
    chosen = options.parse_args()
    print_machine()
    tables = {}
    for box in chosen.boxes:
        ((few, _),) = batches(f1_atpase(box), _SIMULATED, _SNR, 1, _SIMULATED)
        data = [few.select((np.arange(chosen.batch) + shift) % _SIMULATED) for shift in (0, 7)]
        rows: list[dict[str, Any]] = []
        state: EngineState | None = None
        one: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        for count in range(1, len(chosen.devices) + 1):
            config = configured(chosen.backend, chosen.devices[:count], box)
            row, state, volume, rotation = run(config, box, data, chosen.steps, state)
            one = one or (volume, rotation)
            first = rows[0]["particles/s"] if rows else row["particles/s"]
            row["of one device"] = row["particles/s"] / first
            row["map differs by"] = float(np.abs(volume - one[0]).max() / np.abs(one[0]).max())
            row["same poses"] = float((np.abs(rotation - one[1]).max(axis=(1, 2)) < 1e-3).mean())
            rows.append(row)
        print(f"\n{box} px, batches of {chosen.batch}, {chosen.steps} steps, {chosen.backend}")
        print_table(rows)
        tables[str(box)] = rows
    write_json(chosen.json, tables)


if __name__ == "__main__":
    main()
