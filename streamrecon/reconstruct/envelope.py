"""How strong and how sharp the particles of each optics group are in their images, relative to the others: online.

Images are brought to a background of standard deviation 1, so that thicker ice or another dose makes the same particle
weaker; and movement, drift or charging make it fade towards fine detail. A group's CTF is multiplied by
a exp(-B s^2 / 4), s the spatial frequency.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_WINDOW_IMAGES = 2000.0
_PRIOR_IMAGES = 20.0  # a new group counts as average until it has shown more than so many images
_SCALE_RANGE = (0.2, 5.0)
# what groups of one session differ by is of this order: it holds back what few images say
_PRIOR_B_FACTOR = 200.0
_B_FACTOR_RANGE = 500.0
_FIRST_SHELL = 3  # masks and the box's edge spoil the lowest
_LEAST_SHELLS = 6


class GroupEnvelope:
    """Amplitude and B-factor of each group's images against the map at their best poses.

    Parameters
    ----------
    frequency_step : float, 1/angstrom
        Of a shell.
    n_shells : int

    Attributes
    ----------
    sums : ndarray, (n_groups, 2, n_shells) float64
        Decaying sums over images and a shell's points: of Re(conj(slice) C I) / sigma2, and of C^2 |slice|^2 / sigma2.
    images : ndarray, (n_groups,) float64
        Decaying number of images.

    Notes
    -----
    Their ratio r(s) is the factor that explains a shell best. A filtered map, and poses chosen for their score, bias it
    for all groups alike: only what a group has more or less than the mean over all images is used. ln(r_g / r) over
    s^2 / 4, each shell weighed by its information, has the slope -B_g; the amplitude is the least-squares one with that
    B. B is told relative to the sharpest group's: the blur that all share is the map's. Poses that are less exact blur,
    too, and are in B.
    """

    def __init__(self, frequency_step: float, n_shells: int) -> None:
        self._x = (np.arange(n_shells) * frequency_step) ** 2 / 4
        self.sums = np.zeros((0, 2, n_shells))
        self.images = np.zeros(0)

    def add_groups(self, n_groups: int) -> None:
        """Make room for groups first seen now."""
        missing = n_groups - len(self.sums)
        if missing > 0:
            self.sums = np.concatenate([self.sums, np.zeros((missing, *self.sums.shape[1:]))])
            self.images = np.concatenate([self.images, np.zeros(missing)])

    @property
    def needed(self) -> bool:
        """Whether there is more than one group: one alone has amplitude 1 and B-factor 0."""
        return len(self.sums) > 1

    def update(self, group: NDArray[np.integer], match: NDArray[np.floating], power: NDArray[np.floating]) -> None:
        """Fold in a batch.

        Parameters
        ----------
        group : ndarray, (n,)
        match, power : ndarray, (n, k)
            Each image's sums by shell, up to some shell, without any amplitude or envelope in the CTF.
        """
        k = match.shape[1]
        for g in np.unique(group):
            rows = group == g
            n = float(np.count_nonzero(rows))
            keep = _WINDOW_IMAGES / (_WINDOW_IMAGES + n)
            self.sums[g] *= keep
            self.sums[g, 0, :k] += match[rows].sum(axis=0, dtype=np.float64)
            self.sums[g, 1, :k] += power[rows].sum(axis=0, dtype=np.float64)
            self.images[g] = keep * self.images[g] + n

    @property
    def b_factor(self) -> NDArray[np.float64]:
        """Return each group's B-factor over the sharpest group's, (n_groups,) angstrom^2; 0 where nothing is known."""
        slopes = np.zeros(len(self.sums))
        if self.needed:
            mean = self.sums.sum(axis=0)
            slopes = np.array([self._slope(own, mean) for own in self.sums])
        known = self.images >= _PRIOR_IMAGES
        return np.asarray(np.clip(slopes - (slopes[known].min() if known.any() else 0.0), 0.0, _B_FACTOR_RANGE))

    def _slope(self, own: NDArray[np.float64], mean: NDArray[np.float64]) -> float:
        """Return a group's B-factor over the mean of all groups."""
        used = (own > 0).all(axis=0) & (mean > 0).all(axis=0) & (np.arange(len(self._x)) >= _FIRST_SHELL)
        if np.count_nonzero(used) < _LEAST_SHELLS:
            return 0.0
        ratio = own[0, used] / own[1, used]
        y = np.log(ratio / (mean[0, used] / mean[1, used]))
        # the ratio's variance is one over the power term, that of its logarithm one over this
        weight = own[1, used] * ratio**2
        x = self._x[used]
        x_mean, y_mean = np.average(x, weights=weight), np.average(y, weights=weight)
        along = float(weight @ ((x - x_mean) * (y - y_mean)))
        spread = float(weight @ (x - x_mean) ** 2) + 1.0 / _PRIOR_B_FACTOR**2
        return -along / spread

    @property
    def scale(self) -> NDArray[np.float64]:
        """Return each group's amplitude, (n_groups,), the mean over all images being 1; 1 where nothing is known."""
        envelope = np.exp(-self.b_factor[:, None] * self._x)
        match = (self.sums[:, 0] * envelope).sum(axis=1)
        power = (self.sums[:, 1] * envelope**2).sum(axis=1)
        if not self.needed or match.sum() <= 0 or power.sum() <= 0:
            return np.ones(len(self.sums))
        mean = match.sum() / power.sum()
        own = np.divide(match, power, out=np.full(len(power), mean), where=power > 0) / mean
        trust = self.images / (self.images + _PRIOR_IMAGES)
        return np.asarray(np.clip(1.0 + trust * (own - 1.0), *_SCALE_RANGE))

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return arrays for a checkpoint."""
        return {"envelope_sums": self.sums, "envelope_images": self.images}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `state` gave."""
        self.sums = np.array(arrays["envelope_sums"], np.float64)
        self.images = np.array(arrays["envelope_images"], np.float64)
