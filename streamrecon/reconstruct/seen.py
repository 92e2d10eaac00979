"""A batch in work: the images of this rank, and what is known of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import Observations
from streamrecon.reconstruct.collective import Share
from streamrecon.reconstruct.posing import PoseEstimator


@dataclass(frozen=True)
class Seen:
    """What a step works with, once its images are prepared.

    Attributes
    ----------
    share : Share
    observations : Observations
        Of this rank's images.
    noise : ndarray, (n_own, n_shells) float32, on the host
        Inverse noise variance of this rank's images.
    inverse_noise : (n_own, n_shells) float32, on the device
        The same.
    n_a : int
        The first so many of this rank's images belong to half a.
    group : ndarray, (n,) int32
        Of all images.
    power : ndarray, (n, n_shells) float32
        Of all images.
    """

    share: Share
    observations: Observations
    noise: NDArray[np.float32]
    inverse_noise: Array
    n_a: int
    group: NDArray[np.int32]
    power: NDArray[np.float32]

    def measured(
        self, poses: PoseEstimator, samples: PoseSamples, points: HalfPlanePoints, shells: int
    ) -> tuple[NDArray[np.float32], tuple[NDArray[np.floating], NDArray[np.floating]] | None]:
        """Return the residual power of all images, and how they match the map up to ``shells``, if there are any."""
        residual = poses.residual_power(self.observations, samples, points, self.n_a)
        if shells == 0:
            return self.share.join(residual)[0], None
        match, power = poses.match_and_power(self.observations, samples, points, self.n_a, residual)
        end = min(shells, points.k_max) + 1
        residual, match, power = self.share.join(residual, match[:, :end], power[:, :end])
        return residual, (match, power)
