"""The noise spectrum of each optics group, estimated online from what the map does not explain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WINDOW_IMAGES = 1000.0


class NoiseModel:
    """Radial noise variance a Fourier coefficient, one spectrum an optics group.

    The spectrum starts as the images' own power (all noise, which only weakens the first evidence) and
    then follows the residuals with an exponential window.

    Attributes
    ----------
    variance : ndarray, (n_groups, n_shells) float64
    images : ndarray, (n_groups,) float64
        Images behind each spectrum, at most the window.
    """

    def __init__(self, n_groups: int, n_shells: int) -> None:
        self.variance = np.ones((n_groups, n_shells))
        self.images = np.zeros(n_groups)

    def add_groups(self, n_groups: int) -> None:
        """Make room for optics groups first seen now."""
        missing = n_groups - len(self.images)
        if missing > 0:
            self.variance = np.concatenate([self.variance, np.ones((missing, self.variance.shape[1]))])
            self.images = np.concatenate([self.images, np.zeros(missing)])

    def is_new(self, group: int) -> bool:
        """Return whether nothing is known of a group yet."""
        return bool(self.images[group] == 0)

    def update(
        self,
        group: NDArray[np.integer],
        power: NDArray[np.floating],
        mask_fill: float,
        weight: NDArray[np.floating] | None = None,
    ) -> None:
        """Fold in measured residual power.

        Parameters
        ----------
        group : ndarray, (n,)
        power : ndarray, (n, n_shells)
            Of masked images; divided by ``mask_fill`` it stands for the unmasked noise, which is what
            makes the sum over (correlated) Fourier points of a masked image count as much as its pixels do. May
            end before the spectrum does: what lies beyond stays as it is.
        weight : ndarray, (n,), optional
            How much each image counts; junk is not noise.
        """
        known = power.shape[1]
        counts = np.ones(len(power)) if weight is None else np.asarray(weight, np.float64)
        for g in np.unique(group):
            rows, count = power[group == g].astype(np.float64), counts[group == g]
            n = float(count.sum())
            if n <= 0.0:
                continue
            mean = (count @ rows) / (n * mask_fill)
            share = n / (min(self.images[g], _WINDOW_IMAGES) + n)
            self.variance[g, :known] += share * (mean - self.variance[g, :known])
            self.images[g] = min(self.images[g] + n, _WINDOW_IMAGES)

    def inverse(self, group: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return 1 / variance for each image, (n, n_shells) float32."""
        floor = np.maximum(self.variance, 1e-6 * self.variance.max(axis=1, keepdims=True))
        return np.asarray((1.0 / floor)[group], np.float32)
