"""What is measured of a map: agreement with the truth, held-out log-likelihood, success; and intervals of rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.compare.poses import pose_errors
from streamrecon.compute.backend import Backend
from streamrecon.experiments.problem import HELD_OUT_NUMBER, Problem
from streamrecon.fourier.points import half_plane_points
from streamrecon.reconstruct.collective import ALONE, Share
from streamrecon.reconstruct.half_maps import PAD
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.settings import EngineSettings

SUCCESS_DEGREES = 15.0
SUCCESS_SHARE = 0.5
_NOTHING = 1e-8  # of the truth's norm: a map that a prior has drawn to zero


@dataclass(frozen=True)
class MapScore:
    """A map beside the truth.

    Attributes
    ----------
    volume : ndarray, (box, box, box) float32
        The map in the truth's frame and hand.
    fsc : ndarray, (n_shells,) float32
    fsc_05_angstrom, fsc_0143_angstrom : float
        Where it falls below.
    """

    volume: NDArray[np.float32]
    fsc: NDArray[np.float32]
    fsc_05_angstrom: float
    fsc_0143_angstrom: float


def score_map(truth: NDArray[np.float32], volume: NDArray[np.float32], pixel_size_angstrom: float) -> MapScore:
    """Align a map with the truth, either hand, and correlate them; a map of nothing agrees nowhere."""
    if np.linalg.norm(volume.astype(np.float64)) < _NOTHING * np.linalg.norm(truth):
        n = len(truth) // 2 + 1
        length = len(truth) * pixel_size_angstrom
        return MapScore(np.zeros_like(truth), np.zeros(n, np.float32), length, length)
    aligned = align_volumes(truth, volume, pixel_size_angstrom)
    curve = fsc_between(truth, aligned.volume, pixel_size_angstrom)
    return MapScore(aligned.volume, curve.fsc, curve.resolution_05_angstrom, curve.resolution_0143_angstrom)


class HeldOut:
    """Mean log-evidence of images that no method sees, nats: the held-out log-likelihood, poses integrated out.

    The same images, random numbers, band and noise (the true one: white, of variance 1) for every map, so that it
    compares maps and nothing else.

    Parameters
    ----------
    problem : Problem
    images, shells : int
    backend : Backend
    """

    def __init__(self, problem: Problem, images: int, shells: int, backend: Backend) -> None:
        self._backend = backend
        geometry = problem.geometry
        self._points = half_plane_points(min(shells, int(0.95 * problem.box_size / 2)))
        self._poses = PoseEstimator(EngineSettings(), geometry, backend)
        step = np.full(problem.mini_batch, geometry.frequency_step, np.float32)
        self._observed = []
        for batch in problem.batches(images, HELD_OUT_NUMBER):
            n = len(batch)
            prepared = self._poses.preparer.prepare(
                batch.images, batch.table.ctf_coefficients(), step[:n], np.zeros(n, np.int32), self._points
            )
            self._observed.append(prepared)
        self._inverse_noise = np.full((1, problem.box_size // 2 + 1), 1.0 / problem.box_size**2, np.float32)

    def log_likelihood(self, volume: NDArray[np.float32]) -> float:
        """Return the mean log-evidence against a map, (box,)*3 in the images' units; 0 is "noise alone"."""
        backend = self._backend
        reach = max(self._points.k_max, self._poses.search_rings)
        cube = backend.cube(backend.to_device(np.asarray(volume, np.float32)), PAD, PAD * reach + 2)
        self._poses.set_maps((cube, cube), self._points.k_max)
        rng = np.random.default_rng(0)
        total, count = 0.0, 0
        for observed in self._observed:
            n = len(observed.group)
            inverse_noise = backend.to_device(np.repeat(self._inverse_noise, n, axis=0))
            samples, _ = self._poses.sample(observed, inverse_noise, self._points, 1.0, n, rng, Share(ALONE, n))
            total += float(backend.to_host(samples.log_evidence).sum(dtype=np.float64))
            count += n
        return total / count


@dataclass(frozen=True)
class PoseScore:
    """How many poses are right."""

    share_within: float
    median_degrees: float


def score_poses(true_rotation: NDArray[np.floating], found_rotation: NDArray[np.floating]) -> PoseScore:
    """Compare poses (n, 3, 3) up to one rotation and the hand."""
    errors = pose_errors(true_rotation, found_rotation)
    return PoseScore(errors.share_within(SUCCESS_DEGREES), errors.median_degrees)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's confidence interval of a success rate.

    References
    ----------
    Wilson 1927, J. Am. Stat. Assoc. 22, 209.
    """
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
