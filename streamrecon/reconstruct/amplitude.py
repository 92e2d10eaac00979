"""How strong the particles of each optics group are in their images, relative to the others: followed online.

Images are brought to a background of standard deviation 1, so that thicker ice or another dose makes the same particle
weaker. A group's amplitude multiplies its CTF.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_WINDOW_IMAGES = 2000.0
_PRIOR_IMAGES = 20.0  # a new group counts as average until it has shown more than so many images
_SCALE_RANGE = (0.2, 5.0)


class AmplitudeScale:
    """Least-squares amplitude of each group's images against the map at their best poses.

    Attributes
    ----------
    sums : ndarray, (n_groups, 3) float64
        Decaying sums over images: sum of Re(conj(slice) C I) / sigma2, of C^2 |slice|^2 / sigma2, and of ones.

    Notes
    -----
    The ratio of the first two is the amplitude that explains the images best. A filtered map, and poses chosen for
    their score, bias it for all groups alike: so only their ratios are used, the mean over all images being 1.
    """

    def __init__(self) -> None:
        self.sums = np.zeros((0, 3))

    def add_groups(self, n_groups: int) -> None:
        """Make room for groups first seen now."""
        missing = n_groups - len(self.sums)
        if missing > 0:
            self.sums = np.concatenate([self.sums, np.zeros((missing, 3))])

    @property
    def needed(self) -> bool:
        """Whether there is more than one group: one alone has scale 1."""
        return len(self.sums) > 1

    def update(self, group: NDArray[np.integer], match: NDArray[np.floating], power: NDArray[np.floating]) -> None:
        """Fold in a batch's sums for each image, made without any scale in the CTF."""
        for g in np.unique(group):
            rows = group == g
            n = float(np.count_nonzero(rows))
            keep = _WINDOW_IMAGES / (_WINDOW_IMAGES + n)
            new = (match[rows].sum(dtype=np.float64), power[rows].sum(dtype=np.float64), n)
            self.sums[g] = keep * self.sums[g] + np.array(new)

    @property
    def scale(self) -> NDArray[np.float64]:
        """Return each group's amplitude, (n_groups,); 1 where nothing is known."""
        match, power, images = self.sums.T
        if not self.needed or match.sum() <= 0 or power.sum() <= 0:
            return np.ones(len(self.sums))
        mean = match.sum() / power.sum()
        own = np.divide(match, power, out=np.full(len(power), mean), where=power > 0) / mean
        trust = images / (images + _PRIOR_IMAGES)
        return np.asarray(np.clip(1.0 + trust * (own - 1.0), *_SCALE_RANGE))

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return arrays for a checkpoint."""
        return {"amplitude_sums": self.sums}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `state` gave."""
        self.sums = np.array(arrays["amplitude_sums"], np.float64)
