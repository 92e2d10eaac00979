"""How each cell is run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.compute.cpu import CpuBackend
from streamrecon.experiments.batch_runs import run_batch
from streamrecon.experiments.measures import HeldOut
from streamrecon.experiments.methods import ONLINE_EM, method_settings
from streamrecon.experiments.plan import Data
from streamrecon.experiments.problem import TUNING_NUMBER, Problem, make_problem
from streamrecon.experiments.real import run_real
from streamrecon.experiments.relion import run_relion
from streamrecon.experiments.sampling import measure_band
from streamrecon.experiments.store import Cell, Result
from streamrecon.experiments.streaming import Watched, run_stream
from streamrecon.peers.batch import PeerSettings
from streamrecon.peers.start import low_passed, map_of_true_poses, random_start

Stop = Callable[[], bool]
_START_SHELLS = 8
_GOOD_IMAGES = 500  # behind a good start
_GOOD_SETTLE_IMAGES = 100  # a good start needs no annealing


def run_cell(cell: Cell, threads: int, stop: Stop) -> Result | None:
    """Run a cell; None if it was told to stop on the way.

    Raises
    ------
    StreamReconError
        It cannot be run as it is.
    """
    began = time.process_time()
    backend = CpuBackend(threads)
    result = _JOBS[cell.part](cell.parameters, backend, stop)
    if result is None:
        return None
    return Result(result.rows, result.volumes, round(time.process_time() - began, 2))


def _problem(p: Any, **changed: Any) -> Problem:
    return make_problem(Data(**p["data"]), **changed)


def _held_out(p: Any, problem: Problem, backend: Backend) -> HeldOut:
    return HeldOut(problem, p["held_out"]["images"], p["held_out"]["shells"], backend)


def _start(problem: Problem, backend: Backend, seed: int) -> NDArray[np.float32]:
    """Return the random start that all methods of a comparison share."""
    first = next(iter(problem.batches(problem.mini_batch)))
    return random_start(first, problem.geometry, backend, _START_SHELLS, seed)


def _rows(watched: Watched, **more: Any) -> list[dict[str, Any]]:
    return [{**more, **row} for row in watched.rows]


def _tuning(p: Any, backend: Backend, stop: Stop) -> Result | None:
    problem = _problem(p)
    settings = method_settings(p["method"], p["factor"])
    watched = run_stream(
        problem, settings, backend, images=p["images"], checkpoints=(), seed=p["data"]["seed"],
        held_out=_held_out(p, problem, backend), start=_start(problem, backend, p["data"]["seed"]),
        first=TUNING_NUMBER, aligned=False, stop=stop,
    )  # fmt: skip
    return None if watched is None else Result(_rows(watched, method=p["method"], factor=p["factor"]))


def _stream(p: Any, backend: Backend, stop: Stop) -> Result | None:
    problem = _problem(p)
    held_out, start = _held_out(p, problem, backend), _start(problem, backend, p["data"]["seed"])
    if "passes" in p:
        watched = run_batch(
            problem, PeerSettings(method=p["method"]), backend, images=p["images"], passes=p["passes"], start=start,
            held_out=held_out, stop=stop,
        )  # fmt: skip
    else:
        watched = run_stream(
            problem, method_settings(p["method"], p["factor"]), backend, images=p["images"],
            checkpoints=p["checkpoints"], seed=p["data"]["seed"], held_out=held_out, start=start, stop=stop,
        )  # fmt: skip
    return None if watched is None else Result(_rows(watched, method=p["method"]), watched.volumes)


def _starts(p: Any, backend: Backend, stop: Stop) -> Result | None:
    # the images are the same for every start of a kind: what differs is where it begins
    problem = _problem(p)
    seed = p["data"]["seed"] * 1000 + p["number"]
    good = p["kind"] == "good"
    if good:
        # images that no method sees, others for each start
        first = TUNING_NUMBER + 1000 * (1 + p["number"])
        made = map_of_true_poses(problem.batches(_GOOD_IMAGES, first), problem.geometry, backend)
        start = low_passed(made, _START_SHELLS)
    else:
        start = _start(problem, backend, seed)
    if "passes" in p:
        settings = PeerSettings(
            method=p["method"], search_shells=p["search_shells"], in_plane_angles=p["in_plane_angles"], tau2=p["tau2"]
        )
        watched = run_batch(
            problem, settings, backend, images=p["images"], passes=p["passes"], start=start, aligned=False, stop=stop
        )
    else:
        settle = _GOOD_SETTLE_IMAGES if good else p["settle_images"]
        settings_of = method_settings(p["method"], p["factor"], settle_images=settle)
        watched = run_stream(
            problem,
            settings_of,
            backend,
            images=p["images"],
            checkpoints=(),
            seed=seed,
            start=start,
            aligned=False,
            stop=stop,
        )
    if watched is None:
        return None
    row = {
        "method": p["method"],
        "kind": p["kind"],
        "number": p["number"],
        "image_visits": watched.rows[-1]["image_visits"],
        "cpu_seconds": watched.rows[-1]["cpu_seconds"],
        "share_within_15": watched.share_within,
        "median_degrees": round(watched.median_degrees, 3),
    }
    return Result([row])


def _sensitivity(p: Any, backend: Backend, stop: Stop) -> Result | None:
    problem = _problem(p, snr=p["snr"], mini_batch=int(p["mini_batch"]))
    watched = run_stream(
        problem, method_settings(p["method"], p["factor"]), backend, images=p["images"], checkpoints=(),
        seed=p["data"]["seed"], held_out=_held_out(p, problem, backend),
        start=_start(make_problem(Data(**p["data"]), snr=p["snr"]), backend, p["data"]["seed"]), stop=stop,
    )  # fmt: skip
    if watched is None:
        return None
    varied = {name: p[name] for name in ("method", "varied", "factor", "mini_batch", "snr")}
    return Result(_rows(watched, **varied)[-1:])


def _sampling(p: Any, backend: Backend, stop: Stop) -> Result | None:
    problem = _problem(p)
    volume = map_of_true_poses(problem.batches(p["map_images"]), problem.geometry, backend)
    row = measure_band(
        problem, volume, p["band"], images=p["images"], grid_step=p["grid_step"], backend=backend, twice=p["twice"],
        stop=stop,
    )  # fmt: skip
    return None if row is None else Result([row])


def _priors(p: Any, backend: Backend, stop: Stop) -> Result | None:
    problem = _problem(p)
    flags = ("non_negative", "solvent_flattening")
    more: dict[str, Any] = {p["prior"]: True} if p["prior"] in flags else {"prior": p["prior"]}
    watched = run_stream(
        problem, method_settings(ONLINE_EM, **more), backend, images=p["images"], checkpoints=(),
        seed=p["data"]["seed"], held_out=_held_out(p, problem, backend),
        start=_start(problem, backend, p["data"]["seed"]), stop=stop,
    )  # fmt: skip
    return None if watched is None else Result(_rows(watched, prior=p["prior"]), watched.volumes)


def _real(p: Any, backend: Backend, stop: Stop) -> Result | None:
    return run_real(p, backend, stop)


def _relion(p: Any, backend: Backend, stop: Stop) -> Result | None:  # noqa: ARG001  # RELION brings its own
    return run_relion(p, _problem(p), stop)


_JOBS: dict[str, Callable[[Any, Backend, Stop], Result | None]] = {
    "tuning": _tuning,
    "stream": _stream,
    "starts": _starts,
    "sensitivity": _sensitivity,
    "sampling": _sampling,
    "priors": _priors,
    "real": _real,
    "relion": _relion,
}
