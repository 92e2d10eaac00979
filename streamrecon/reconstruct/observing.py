"""What is observed of a batch, whether its images are new or were kept: prepared, scaled, with its noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.fourier.points import half_plane_points
from streamrecon.inference.observation import Observations
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.collective import Share
from streamrecon.reconstruct.image_model import ImageModel
from streamrecon.reconstruct.kept import KeptLayout, KeptParticles
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.running_map import RunningMap
from streamrecon.reconstruct.seen import Seen


class Observer:
    """Look at images in the band of the map as it is.

    Parameters
    ----------
    poses : PoseEstimator
    images : ImageModel
        Meets every batch that is looked at.
    running_map : RunningMap
    layout : KeptLayout
        Of what is handed out with each batch to be kept.
    keep : bool
        Whether anything is.
    backend : Backend
    """

    def __init__(
        self,
        poses: PoseEstimator,
        images: ImageModel,
        running_map: RunningMap,
        layout: KeptLayout,
        backend: Backend,
        *,
        keep: bool,
    ) -> None:
        self._poses = poses
        self._images = images
        self._map = running_map
        self._band = half_plane_points(layout.band)
        self._backend = backend
        self._keep = keep

    def new(
        self,
        batch: ParticleBatch,
        coefficients: NDArray[np.float32],
        step: NDArray[np.float32],
        group: NDArray[np.int32],
        share: Share,
    ) -> tuple[Observations, NDArray[np.float32]]:
        """Return what is observed of this rank's new images, and the power of all.

        Parameters
        ----------
        batch : ParticleBatch, n particles
        coefficients, step, group : ndarray, (n, 5) float32, (n,) float32 and (n,) int32
            CTF coefficients, frequency steps (1/angstrom) and optics groups of the whole batch.
        share : Share
        """
        images = np.ascontiguousarray(share.own(batch.images), np.float32)
        mine = (share.own(coefficients), share.own(step), share.own(group))
        band = self._band if self._keep else None
        observations = self._poses.preparer.prepare(images, *mine, self._map.points, band)
        return self._met(observations, group, batch.identities, share)

    def recalled(self, kept: KeptParticles, share: Share) -> tuple[KeptParticles, Observations, NDArray[np.float32]]:
        """Return this rank's kept particles, what is observed of them, and the power of all."""
        own = kept if share.alone else kept.take(share.index)
        observations = self._poses.preparer.recall(
            own.images, own.ctf_coefficients, own.frequency_step, own.group, self._map.points, self._band
        )
        # a start made in idle time meets its first images here
        names = [f"kept particle {i}" for i in range(len(kept))]
        return own, *self._met(observations, kept.group, names, share)

    def seen(
        self,
        share: Share,
        observations: Observations,
        n_a: int,
        group: NDArray[np.int32],
        power: NDArray[np.float32],
    ) -> Seen:
        """Return a batch as it is posed: with the noise that is known by now."""
        noise = self._images.noise.inverse(observations.group)
        return Seen(share, observations, noise, self._backend.to_device(noise), share.of(n_a), group, power)

    def _met(
        self, observations: Observations, group: NDArray[np.int32], names: Sequence[str], share: Share
    ) -> tuple[Observations, NDArray[np.float32]]:
        (power,) = share.join(observations.power)
        self._images.meet(group, power, observations.mask_fill, names)
        return self._images.scaled(observations, self._map.points, self._poses.search_rings), power
