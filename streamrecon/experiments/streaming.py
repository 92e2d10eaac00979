"""One pass of a streaming method over a problem, watched: maps, held-out log-likelihood and step size on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.experiments.measures import HeldOut, MapScore, score_map, score_poses
from streamrecon.experiments.problem import Problem, true_poses
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.settings import EngineSettings

_LAST = 1000  # images by whose poses a run is judged


@dataclass(frozen=True)
class Watched:
    """A finished run.

    Attributes
    ----------
    rows : list of dict
        One a checkpoint.
    volumes : dict of str to ndarray
        The maps at the checkpoints, in the truth's frame.
    share_within, median_degrees : float
        Of the poses found last.
    cpu_seconds : float
        Spent in the method, measuring left out.
    """

    rows: list[dict[str, Any]]
    volumes: dict[str, NDArray[np.float32]]
    share_within: float
    median_degrees: float
    cpu_seconds: float


class Watch:
    """Takes the measures at checkpoints, whatever the method."""

    def __init__(self, problem: Problem, held_out: HeldOut | None, *, aligned: bool = True) -> None:
        self._problem = problem
        self._aligned = aligned
        self._held_out = held_out
        self._latest: NDArray[np.float32] | None = None
        self.rows: list[dict[str, Any]] = []
        self.volumes: dict[str, NDArray[np.float32]] = {}

    def look(self, visits: int, cpu_seconds: float, volume: NDArray[np.float32], more: dict[str, Any]) -> None:
        """Measure a map after so many image visits."""
        score: MapScore | None = None
        if self._aligned:
            score = score_map(self._problem.truth, volume, self._problem.pixel_size_angstrom)
            self.volumes[f"{visits:07d}"] = score.volume
        change = float("nan")
        if self._latest is not None:
            change = float(np.linalg.norm(volume - self._latest)) / max(float(np.linalg.norm(volume)), 1e-30)
        self._latest = volume
        self.rows.append(
            {
                "image_visits": visits,
                "cpu_seconds": round(cpu_seconds, 3),
                "fsc_05_angstrom": None if score is None else round(score.fsc_05_angstrom, 3),
                "fsc_0143_angstrom": None if score is None else round(score.fsc_0143_angstrom, 3),
                "map_change": _number(change),
                "held_out": None if self._held_out is None else round(self._held_out.log_likelihood(volume), 4),
                **{name: _number(value) for name, value in more.items()},
                "fsc": [] if score is None else [round(float(v), 4) for v in score.fsc],
            }
        )


def _number(value: Any) -> Any:
    """Return a value as JSON holds it: what is not finite is nothing."""
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if np.isfinite(value) else None
    return value


def run_stream(
    problem: Problem,
    settings: EngineSettings,
    backend: Backend,
    *,
    images: int,
    checkpoints: Iterable[int],
    seed: int,
    held_out: HeldOut | None = None,
    start: NDArray[np.float32] | None = None,
    first: int = 0,
    aligned: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Watched | None:
    """Fold each image once, in the order of the problem.

    Parameters
    ----------
    settings : EngineSettings
        Of one random start: what is compared is the method.
    checkpoints : iterable of int
        Images seen at which the map is measured; the end is one anyway.
    seed : int
        Of the random start and of all draws.
    start : ndarray, (box,)*3, optional
        Begin from this map instead.
    first : int
        Number of the first micrograph.
    aligned : bool
        Hold maps against the truth, which takes seconds each.
    stop : callable
        Asked between mini-batches; None is returned if it says so.
    """
    engine = Engine(replace(settings, starts=1), problem.box_size, problem.pixel_size_angstrom, backend, seed)
    if start is not None:
        engine.begin_from(start)
    watch = Watch(problem, held_out, aligned=aligned)
    due = sorted({c for c in checkpoints if c < images})
    seen, spent = 0, 0.0
    true: list[NDArray[np.float32]] = []
    found: list[NDArray[np.float32]] = []
    for batch in problem.batches(images, first):
        if stop():
            return None
        began = time.process_time()
        result = engine.fold(batch)
        spent += time.process_time() - began
        seen += len(batch)
        true.append(true_poses(batch)[0])
        found.append(result.rotation)
        while due and seen >= due[0]:
            watch.look(due.pop(0), spent, engine.snapshot().volume, _status(engine, true, found))
    watch.look(seen, spent, engine.snapshot().volume, _status(engine, true, found))
    poses = score_poses(np.concatenate(true)[-_LAST:], np.concatenate(found)[-_LAST:])
    return Watched(watch.rows, watch.volumes, poses.share_within, poses.median_degrees, spent)


def _status(engine: Engine, true: list[NDArray[np.float32]], found: list[NDArray[np.float32]]) -> dict[str, Any]:
    status = engine.status
    recent = score_poses(np.concatenate(true)[-_LAST:], np.concatenate(found)[-_LAST:])
    return {
        "share_within_15": recent.share_within,
        "stage": status.stage,
        "step_size": status.step_size,
        "k_max": status.k_max,
        "ess": status.effective_sample_size,
        "evaluations_per_image": status.evaluations_per_image,
        "log_evidence": status.log_evidence,
    }
