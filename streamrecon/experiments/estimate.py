"""What a plan takes: processor seconds an image of each method, measured here at the full band, times the images."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from streamrecon.compute.cpu import CpuBackend
from streamrecon.experiments.cells import cells_of
from streamrecon.experiments.methods import method_settings
from streamrecon.experiments.plan import Data, Plan
from streamrecon.experiments.problem import make_problem
from streamrecon.experiments.quadrature import full_grid
from streamrecon.experiments.store import Cell, Store
from streamrecon.fourier.points import half_plane_points
from streamrecon.peers.batch import BatchReconstruction, PeerSettings
from streamrecon.peers.start import map_of_true_poses, random_start
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.extent import band_limit
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.settings import EngineSettings

_IMAGES = 200  # by which an image's cost is measured
_GFLOPS = 40e9  # of the full grid's matrix products on one core
_LOOK_SECONDS = 5.0  # aligning a map with the truth, held-out images
_OTHER_SECONDS = 30.0  # a cell of real particles


def estimate(plan: Plan, parts: Sequence[str]) -> Iterator[str]:
    """Yield lines for people: each part's cells and processor seconds, and the whole in hours.

    An image's cost is taken at the full band from the first image on, which is too much for early images.
    """
    costs = _Costs(plan.threads)
    total = 0.0
    with tempfile.TemporaryDirectory() as empty:
        for part in parts:
            cells = cells_of(plan, part, Store(Path(empty)))
            if cells:
                seconds = sum(costs.cell(cell) for cell in cells)
                total += seconds
                yield f"{part:12s} {len(cells):4d} cells {seconds:9.0f} processor seconds"
    hours = total / 3600
    yield f"{'all':12s} {'':10s} {total:9.0f} processor seconds: {hours:.1f} h on one core, {hours / 2:.1f} h on two"


class _Costs:
    """Processor seconds of cells; what is measured is remembered."""

    def __init__(self, threads: int) -> None:
        self._backend = CpuBackend(threads)
        self._known: dict[tuple[Any, ...], float] = {}
        self._warm: set[str] = set()

    def cell(self, cell: Cell) -> float:
        """Return what a cell takes."""
        p = cell.parameters
        if cell.part == "relion":
            return float(p["limit_seconds"])
        if cell.part == "real":
            return _OTHER_SECONDS
        box, snr = int(p["data"]["box_size"]), float(p["data"]["snr"])
        data = Data(**p["data"])
        if cell.part == "sampling":
            return self._sampling(data, p)
        looks = len(p.get("checkpoints", ())) + 1
        if "passes" in p:
            shells = int(p.get("search_shells", PeerSettings().search_shells))
            each = self._measured(
                ("peer", p["method"], box, snr, shells), lambda: self._peer(data, p["method"], shells)
            )
            return float(p["images"] * p["passes"] * each + _LOOK_SECONDS * p["passes"])
        method = str(p.get("method", "online_em"))
        each = self._measured(("stream", method, box, snr), lambda: self._stream(data, method))
        return float(p["images"] * each + _LOOK_SECONDS * looks)

    def _measured(self, key: tuple[Any, ...], measure: Callable[[], float]) -> float:
        if key not in self._known:
            if key[0] not in self._warm:
                measure()  # compiles
                self._warm.add(key[0])
            self._known[key] = measure()
        return self._known[key]

    def _stream(self, data: Data, method: str) -> float:
        problem = make_problem(data)
        limit = band_limit(EngineSettings(), problem.box_size, problem.pixel_size_angstrom)
        settings = method_settings(method, start_shells=limit, settle_images=1)
        engine = Engine(settings, problem.box_size, problem.pixel_size_angstrom, self._backend, 0)
        engine.begin_from(map_of_true_poses(problem.batches(_IMAGES), problem.geometry, self._backend))
        began = time.process_time()
        for batch in problem.batches(_IMAGES):
            engine.fold(batch)
        return (time.process_time() - began) / _IMAGES

    def _peer(self, data: Data, method: Any, shells: int) -> float:
        problem = make_problem(data)
        peer = BatchReconstruction(PeerSettings(method=method, search_shells=shells), problem.geometry, self._backend)
        batches = list(problem.batches(_IMAGES))
        peer.load(batches)
        peer.start(random_start(batches[0], problem.geometry, self._backend, shells, 0))
        began = time.process_time()
        peer.iterate()
        return (time.process_time() - began) / _IMAGES

    def _sampling(self, data: Data, p: Any) -> float:
        problem = make_problem(data)
        cells = PoseEstimator(EngineSettings(), problem.geometry, self._backend).cells
        poses = full_grid(problem.geometry, cells, p["band"], p["grid_step"]).n_poses
        # two grids
        images = int(p["images"])
        return 2.0 * images * poses * 4.0 * len(half_plane_points(p["band"])) / _GFLOPS + _OTHER_SECONDS
