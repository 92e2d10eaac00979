"""The annealing of the global search: clocked in images seen, gated by effective sample size.

In a stream nobody knows how many particles will come, so the schedule must not need it. For each mini-batch
a temperature >= 1 is chosen so that the mean log effective sample size of the coarse cell posterior does
not fall below a target, and the target falls geometrically with images seen. A noisy set is wide by itself and stays
at temperature 1; a clean one is held back from committing to its first random map.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.cpu_kernels.cells import HISTOGRAM_BINS, HISTOGRAM_SCALE

_FIRST_SHARE = 0.01  # of all cells, at the first image
_LAST_CELLS = 3.0
_SETTLED_ENTROPY = 1.0  # nats
_TEMPERATURE_RANGE = (0.05, 1e4)
_FULL_RATE_TEMPERATURE = 4.0
_SLOWEST_RATE = 0.1


def target_log_ess(progress: float, n_cells: int) -> float:
    """Return the target for the mean log effective sample size, nats, at a progress from 0 to 1."""
    first, last = np.log(_FIRST_SHARE * n_cells), np.log(_LAST_CELLS)
    return float(first + (last - first) * progress)


def _bin_centres() -> NDArray[np.float32]:
    """Distance below the best cell, nats, at each histogram bin's middle (the first bin holds the best: 0)."""
    centre = ((np.arange(HISTOGRAM_BINS) + 0.5) / HISTOGRAM_SCALE) ** 2
    centre[0] = 0.0
    return centre.astype(np.float32)


def log_ess_and_entropy(histogram: NDArray[np.integer], temperature: float) -> tuple[float, float]:
    """Return the mean log effective sample size and mean entropy (nats) of cell posteriors.

    Parameters
    ----------
    histogram : ndarray, (n, HISTOGRAM_BINS)
        From `GlobalSearch.histogram`.
    """
    used = int(np.flatnonzero(histogram.any(axis=0))[-1]) + 1
    x = -_bin_centres()[:used] / np.float32(temperature)
    p = np.exp(x)
    counts = histogram[:, :used].astype(np.float32)
    total = counts @ p
    square = counts @ (p * p)
    moment = counts @ (p * x)
    log_ess = np.log(total.astype(np.float64) ** 2 / square)
    entropy = np.log(total) - moment / total
    return float(log_ess.mean()), float(entropy.mean())


def balancing_temperature(histogram: NDArray[np.integer], target: float) -> float:
    """Return the temperature at which the mean log ESS equals ``target`` (bisection in log T).

    Below 1 it says that the images are too noisy to fill even the target: the posterior is wide by itself.
    """
    low, high = np.log(_TEMPERATURE_RANGE)
    for _ in range(14):
        middle = (low + high) / 2
        if log_ess_and_entropy(histogram, float(np.exp(middle)))[0] < target:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def clock_rate(temperature: float) -> float:
    """Return how fast the annealing clock runs: images that say little about their pose count for less.

    The balancing temperature measures how far apart poses lie in likelihood. Sets of signal-to-noise ratio 0.1 balance
    at 4 and above and need the nominal number of images; noisier ones need more, in about this proportion.
    """
    return float(np.clip(temperature / _FULL_RATE_TEMPERATURE, _SLOWEST_RATE, 1.0))


class Annealer:
    """The annealing's state.

    Attributes
    ----------
    progress : float
        0 at the start, 1 when the target has come down.
    settled_at : int
        Particles seen when the search settled; -1 before.
    entropy : float, nats
        Of the coarse posterior at temperature 1, at the latest batch.
    """

    def __init__(self, settle_images: int, n_cells: int) -> None:
        self._settle_images = settle_images
        self._n_cells = n_cells
        self.progress = 0.0
        self.settled_at = -1
        self.entropy = float(np.log(n_cells))

    @property
    def settled(self) -> bool:
        """Whether the schedule is over and the coarse posterior has found its cells."""
        return self.settled_at >= 0

    def temperature(
        self,
        histogram: NDArray[np.integer],
        n_images: int,
        particles_seen: int,
        confirm: Callable[[], bool] | None = None,
    ) -> float:
        """Return a batch's temperature and advance the clock by its images.

        Parameters
        ----------
        histogram : ndarray, (n, HISTOGRAM_BINS)
            From `GlobalSearch.histogram`.
        n_images, particles_seen : int
            Of the batch, and so far.
        confirm : callable, optional
            Asked before the search settles, and may refuse.
        """
        _, self.entropy = log_ess_and_entropy(histogram, 1.0)
        if self.settled:
            return 1.0
        balance = balancing_temperature(histogram, target_log_ess(self.progress, self._n_cells))
        self.progress = min(1.0, self.progress + n_images * clock_rate(balance) / self._settle_images)
        sure = self.progress > 1.0 - 1e-9 and self.entropy < _SETTLED_ENTROPY
        if sure and (confirm is None or confirm()):
            self.settled_at = particles_seen
            return 1.0
        return max(1.0, balance)

    def reopen(self) -> None:
        """Anneal again, from half-way: the map is wrong, but not nothing."""
        self.settled_at = -1
        self.progress = 0.5
