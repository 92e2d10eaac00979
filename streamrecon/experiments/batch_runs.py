"""Passes of the batch methods over a problem, watched in the same way as the streaming ones."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.experiments.measures import HeldOut, score_poses
from streamrecon.experiments.problem import Problem, true_poses
from streamrecon.experiments.streaming import Watch, Watched
from streamrecon.peers.batch import BatchReconstruction, PeerSettings


def run_batch(
    problem: Problem,
    settings: PeerSettings,
    backend: Backend,
    *,
    images: int,
    passes: int,
    start: NDArray[np.float32],
    held_out: HeldOut | None = None,
    aligned: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Watched | None:
    """Visit all images ``passes`` times.

    Parameters
    ----------
    start : ndarray, (box,)*3 float32
    aligned : bool
        Hold maps against the truth, which takes seconds each.
    stop : callable
        Asked between passes; None is returned if it says so.
    """
    method = BatchReconstruction(settings, problem.geometry, backend)
    true = []
    began = time.process_time()
    preparing = 0.0
    for batch in problem.batches(images):
        true.append(true_poses(batch)[0])
        started = time.process_time()
        method.load([batch])
        preparing += time.process_time() - started
    rotation = np.concatenate(true)
    method.start(start)
    watch = Watch(problem, held_out, aligned=aligned)
    spent = preparing
    for number in range(passes):
        if stop():
            return None
        began = time.process_time()
        result = method.iterate()
        spent += time.process_time() - began
        poses = score_poses(rotation, result.rotation)
        more = {
            "share_within_15": poses.share_within,
            "stage": f"pass {number + 1}",
            "k_max": result.k_max,
            "ess": result.effective_sample_size,
            "evaluations_per_image": float(method.cells.n_cells),
            "log_evidence": result.log_evidence,
        }
        watch.look((number + 1) * images, spent, method.volume, more)
    return Watched(watch.rows, watch.volumes, poses.share_within, poses.median_degrees, spent)
