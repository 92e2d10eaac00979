"""What images say to a map that they are not in: that of the half which they do not belong to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.running_map import RunningMap
from streamrecon.reconstruct.seen import Seen

_BEYOND_CHANCE = 3.0  # standard errors


def log_evidence(
    running_map: RunningMap, poses: PoseEstimator, backend: Backend, seen: Seen, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the log-evidence of all images of a batch in the map of the half that each is not in, (n,) float32, nats.

    Over that of noise alone. The map in use is as before afterwards.

    Raises
    ------
    RuntimeError
        There is no map yet.
    """
    with running_map.exchanged():
        samples, _ = poses.sample(
            seen.observations, seen.inverse_noise, running_map.points, 1.0, seen.n_a, rng, seen.share
        )
    (evidence,) = seen.share.join(backend.to_host(samples.log_evidence))
    return np.asarray(evidence, np.float32)


def explained(evidence: NDArray[np.floating]) -> bool:
    """Return whether images are explained by maps that they are not in, beyond chance.

    A search settles when its images are sure of their poses; images that are in the map already would be sure of those
    in a map of their own noise, too. Of noise the mean likelihood ratio to any map that it is not in is 1, and that of
    its logarithm at most 0 (Jensen): the mean log-evidence must be above 0.

    Parameters
    ----------
    evidence : ndarray, (n,)
        From `log_evidence`.
    """
    error = float(evidence.std()) / np.sqrt(max(len(evidence) - 1, 1))
    return bool(evidence.mean() > _BEYOND_CHANCE * error)
