"""What is learnt of the images beside the map: noise spectra, envelopes and health of the optics groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.inference.observation import ImageGeometry, Observations
from streamrecon.reconstruct.envelope import GroupEnvelope
from streamrecon.reconstruct.health import Health, junk_log_evidence
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.results import BatchResult, GroupHealth


class ImageModel:
    """Noise, amplitude, envelope and health of every optics group, followed online.

    Attributes
    ----------
    noise : NoiseModel
    """

    def __init__(self, backend: Backend, geometry: ImageGeometry) -> None:
        self._backend = backend
        self._step = geometry.frequency_step
        n_shells = geometry.box_size // 2 + 1
        self.noise = NoiseModel(0, n_shells)
        self._health = Health()
        self._envelope = GroupEnvelope(geometry.frequency_step, n_shells)

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
        self._envelope.add_groups(int(group.max()) + 1)
        for g in np.unique(group):
            if self.noise.is_new(int(g)):
                rows = group == g
                self.noise.update(group[rows], power[rows], mask_fill)

    def amplitude(self, group: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the amplitude of each image, (n,)."""
        return np.asarray(self._envelope.scale[group], np.float32)

    def b_factor(self, group: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the B-factor of each image over the sharpest group's, (n,) angstrom^2."""
        return np.asarray(self._envelope.b_factor[group], np.float32)

    def scaled(self, observations: Observations, points: HalfPlanePoints, n_rings: int) -> Observations:
        """Return the observations with each group's amplitude and envelope in its CTF.

        Parameters
        ----------
        points : HalfPlanePoints
            Of the observations.
        n_rings : int
            Of their rings, at 1, 2, 3 ... Fourier pixels.
        """
        if not self._envelope.needed:
            return observations
        group, to_device = observations.group, self._backend.to_device
        amplitude, b_factor = self.amplitude(group)[:, None], self.b_factor(group)
        ctf, ring_ctf = observations.ctf, observations.ring_ctf
        if b_factor.any():
            ctf = ctf * to_device(envelope_at(points, b_factor, self._step))
            rings = np.repeat(np.arange(1, n_rings + 1), ring_ctf.shape[1] // n_rings) * self._step
            ring_ctf = ring_ctf * to_device(_gaussian(rings, b_factor))
        return replace(observations, ctf=ctf * to_device(amplitude), ring_ctf=ring_ctf * to_device(amplitude))

    @property
    def compares_groups(self) -> bool:
        """Whether there are several groups, so that their envelopes are worth measuring."""
        return self._envelope.needed

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
        points: HalfPlanePoints,
        match_and_power: tuple[NDArray[np.floating], NDArray[np.floating]] | None,
        *,
        new: bool,
    ) -> None:
        """Let noise, envelopes and health follow a batch.

        Parameters
        ----------
        residual : ndarray, (n, n_shells)
            From `PoseEstimator.residual_power`.
        result : BatchResult
            What was found of each image.
        points : HalfPlanePoints
            Of the band in use.
        match_and_power : two ndarray, (n, k), or None
            From `PoseEstimator.match_and_power`, up to a shell; None leaves the envelopes alone.
        new : bool
            Whether these particles were never seen before.
        """
        if match_and_power is not None:
            self._learn_envelope(group, match_and_power, inlier, points)
        self.noise.update(group, residual, mask_fill, inlier)
        self._health.update(group, result.log_evidence, result.effective_sample_size, inlier, new=new)

    def _learn_envelope(
        self,
        group: NDArray[np.integer],
        means: tuple[NDArray[np.floating], NDArray[np.floating]],
        inlier: NDArray[np.float32],
        points: HalfPlanePoints,
    ) -> None:
        """Hand a batch's means by shell over as sums, without what was in the CTF already."""
        end = means[0].shape[1]
        counts = np.bincount(points.shell, minlength=points.k_max + 1)[:end]
        weight = inlier[:, None] * counts * self.noise.inverse(group)[:, :end]
        used = self.amplitude(group)[:, None] * _gaussian(np.arange(end) * self._step, self.b_factor(group))
        match, power = means
        self._envelope.update(group, weight * match / used, weight * power / used**2)

    def groups(self, names: Sequence[str], *, judged: bool) -> tuple[GroupHealth, ...]:
        """Return the health of every group."""
        return self._health.groups(names, self._envelope.scale, self._envelope.b_factor, judged=judged)

    def state(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
        """Return arrays and scalars for a checkpoint."""
        arrays, scalars = self._health.state()
        noise = {"noise_variance": self.noise.variance, "noise_images": self.noise.images}
        return {**arrays, **self._envelope.state(), **noise}, scalars

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self.noise.variance = np.array(arrays["noise_variance"], np.float64)
        self.noise.images = np.array(arrays["noise_images"], np.float64)
        self._health.restore(arrays, scalars)
        self._envelope.restore(arrays)


def envelope_at(
    points: HalfPlanePoints, b_factor: NDArray[np.floating], frequency_step: NDArray[np.floating] | float
) -> NDArray[np.float32]:
    """Return exp(-B s^2 / 4) of n images at half-plane points, (n, n_points) float32.

    Parameters
    ----------
    b_factor : ndarray, (n,), angstrom^2
    frequency_step : float or ndarray, (n, 1), 1/angstrom a Fourier pixel
    """
    return _gaussian(np.hypot(points.kx, points.ky) * np.asarray(frequency_step, np.float32), b_factor)


def _gaussian(frequency: NDArray[np.floating], b_factor: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return exp(-B s^2 / 4), (n, n_frequencies) float32; ``frequency`` (n_frequencies,) or (n, n_frequencies)."""
    exponent = np.asarray(b_factor, np.float32)[:, None] * np.asarray(frequency, np.float32) ** 2
    return np.asarray(np.exp(np.float32(-0.25) * exponent), np.float32)
