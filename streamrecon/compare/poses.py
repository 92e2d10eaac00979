"""Estimated poses against true ones: an ab initio map has its own frame, and one of two hands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon.geometry.rotation import angular_distance_degrees

_MODE_DEGREES = 15.0
_TRIALS = 200
# a mirrored map's projection at R is the true map's at R Rz(180)
_MIRROR = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class PoseErrors:
    """Angles between estimated and true poses after the frames were brought together.

    Attributes
    ----------
    error_degrees : ndarray, (n,) float64
    mirrored : bool
        Whether the estimate has the other hand.
    """

    error_degrees: NDArray[np.float64]
    mirrored: bool

    @property
    def median_degrees(self) -> float:
        """Median error."""
        return float(np.median(self.error_degrees))

    def share_within(self, degrees: float) -> float:
        """Share of poses with a smaller error."""
        return float(np.mean(self.error_degrees < degrees))


def pose_errors(
    true_rotation: NDArray[np.floating],
    estimated_rotation: NDArray[np.floating],
    *,
    n_symmetric: int = 1,
    seed: int = 0,
) -> PoseErrors:
    """Compare poses up to one global rotation and the hand.

    Parameters
    ----------
    true_rotation, estimated_rotation : ndarray, (n, 3, 3)
    n_symmetric : int
        Order of the specimen's symmetry group: that many frames are equally right, and each pose is
        compared in the nearest.

    Notes
    -----
    For each hand, the frame that most poses agree on is found by trying the frames of single
    particles; its members' mean is the frame.
    """
    rng = np.random.default_rng(seed)
    results = []
    for mirrored in (False, True):
        estimate = estimated_rotation @ _MIRROR if mirrored else np.asarray(estimated_rotation)
        frames = np.einsum("nij,nkj->nik", np.asarray(estimate, np.float64), true_rotation)
        error = np.full(len(frames), 180.0)
        for _ in range(n_symmetric):
            rest = frames[error > _MODE_DEGREES]
            if len(rest) == 0:
                break
            error = np.minimum(error, angular_distance_degrees(frames, _common_frame(rest, rng)[None]))
        results.append(PoseErrors(error, mirrored))
    return max(results, key=lambda r: r.share_within(_MODE_DEGREES))


def _common_frame(frames: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    trials = rng.choice(len(frames), min(_TRIALS, len(frames)), replace=False)
    members = [angular_distance_degrees(frames, frames[t][None]) < _MODE_DEGREES for t in trials]
    u, _, v = np.linalg.svd(frames[max(members, key=lambda m: int(m.sum()))].mean(axis=0))
    return np.asarray(u @ v, np.float64)
