"""What is learnt of the images beside the map: noise spectra, amplitudes and health of the optics groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.inference.observation import Observations
from streamrecon.reconstruct.amplitude import AmplitudeScale
from streamrecon.reconstruct.health import Health, junk_log_evidence
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.results import BatchResult, GroupHealth


class ImageModel:
    """Noise, amplitude and health of every optics group, followed online.

    Attributes
    ----------
    noise : NoiseModel
    """

    def __init__(self, backend: Backend, box_size: int) -> None:
        self._backend = backend
        self.noise = NoiseModel(0, box_size // 2 + 1)
        self._health = Health()
        self._amplitude = AmplitudeScale()

    def meet(
        self, group: NDArray[np.integer], power: NDArray[np.floating], mask_fill: float, names: Sequence[str]
    ) -> None:
        """Take note of new images: they must be finite, and a group's first start its noise spectrum.

        Raises
        ------
        NumericalError
            An image's power is not finite.
        """
        finite = np.asarray(np.isfinite(power).all(axis=1))
        if not finite.all():
            bad = [name for name, good in zip(names, finite, strict=True) if not good]
            raise NumericalError(
                f"{len(bad)} particles have a power spectrum that is not finite, the first is {bad[0]}; "
                "leave them out, or rescale the images to ordinary values"
            )
        self.noise.add_groups(int(group.max()) + 1)
        self._amplitude.add_groups(int(group.max()) + 1)
        for g in np.unique(group):
            if self.noise.is_new(int(g)):
                rows = group == g
                self.noise.update(group[rows], power[rows], mask_fill)

    def amplitude(self, group: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the amplitude of each image, (n,)."""
        return np.asarray(self._amplitude.scale[group], np.float32)

    def scaled(self, observations: Observations) -> Observations:
        """Return the observations with each group's amplitude in its CTF."""
        if not self._amplitude.needed:
            return observations
        scale = self._backend.to_device(self.amplitude(observations.group)[:, None])
        return replace(observations, ctf=observations.ctf * scale, ring_ctf=observations.ring_ctf * scale)

    @property
    def compares_amplitudes(self) -> bool:
        """Whether there are several groups, so that amplitudes are worth measuring."""
        return self._amplitude.needed

    def judge(
        self,
        group: NDArray[np.integer],
        power: NDArray[np.floating],
        mask_fill: float,
        log_evidence: NDArray[np.floating],
        points: HalfPlanePoints,
    ) -> NDArray[np.float32]:
        """Return each image's probability of being explained by the map, (n,)."""
        counts = np.bincount(points.shell, minlength=points.k_max + 1)
        noise = self.noise.inverse(group)[:, : power.shape[1]]
        junk = junk_log_evidence(power, noise, counts, mask_fill)
        return self._health.inlier_probability(log_evidence, junk)

    def learn(
        self,
        group: NDArray[np.integer],
        residual: NDArray[np.floating],
        mask_fill: float,
        result: BatchResult,
        inlier: NDArray[np.float32],
        amplitude_sums: tuple[NDArray[np.floating], NDArray[np.floating]] | None,
        *,
        new: bool,
    ) -> None:
        """Let noise, amplitudes and health follow a batch.

        Parameters
        ----------
        residual : ndarray, (n, n_shells)
            From `PoseEstimator.residual_power`.
        result : BatchResult
            What was found of each image.
        amplitude_sums : two ndarray, (n,), or None
            From `PoseEstimator.amplitude_sums`; None leaves the amplitudes alone.
        new : bool
            Whether these particles were never seen before.
        """
        self.noise.update(group, residual, mask_fill, inlier)
        if amplitude_sums is not None:
            match, power = amplitude_sums
            used = self._amplitude.scale[group]
            self._amplitude.update(group, inlier * match / used, inlier * power / used**2)
        self._health.update(group, result.log_evidence, result.effective_sample_size, inlier, new=new)

    def groups(self, names: Sequence[str], *, judged: bool) -> tuple[GroupHealth, ...]:
        """Return the health of every group."""
        return self._health.groups(names, self._amplitude.scale, judged=judged)

    def state(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
        """Return arrays and scalars for a checkpoint."""
        arrays, scalars = self._health.state()
        noise = {"noise_variance": self.noise.variance, "noise_images": self.noise.images}
        return {**arrays, **self._amplitude.state(), **noise}, scalars

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self.noise.variance = np.array(arrays["noise_variance"], np.float64)
        self.noise.images = np.array(arrays["noise_images"], np.float64)
        self._health.restore(arrays, scalars)
        self._amplitude.restore(arrays)
