"""Whether new images contradict the symmetry that is imposed: a running test on what no map has seen yet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WINDOW = 1000.0  # images that the means run over, and that are heard before anything is said
# Of the log-likelihood, that a map without the symmetry must gain to contradict it. Simulated F1-ATPase taken for
# threefold gains a tenth; truly symmetric particles lose (benchmarks.symmetry).
_PROOF = 0.01
_STANDARD_ERRORS = 4.0  # by which the gain must differ from nothing as well


@dataclass
class SymmetryDoubts:
    """Running means over new images, each judged before it is in any map.

    Attributes
    ----------
    images : float
        Behind the means, at most a window of them and a batch.
    log_likelihood : float
        Mean at the best pose on the symmetric map, nats.
    gain, square : float
        Mean, and mean square, of what the map without symmetry gains (`relaxation.Relaxed.gain`), nats.

    Notes
    -----
    The gain is the log of a mean of likelihood ratios. Were the symmetric map the truth, the mean of each ratio over
    images would be 1, and that of its logarithm at most 0 (Jensen): noise in the other map can only lose. So a gain on
    images that are in neither map is evidence, and never the noise that both halves may have been aligned to.
    """

    images: float = 0.0
    log_likelihood: float = 0.0
    gain: float = 0.0
    square: float = 0.0

    def note(self, log_likelihood: NDArray[np.floating], gain: NDArray[np.floating]) -> None:
        """Take note of new images, each (n,)."""
        self.images = min(self.images, _WINDOW) + len(gain)
        share = len(gain) / self.images
        self.log_likelihood += share * (float(log_likelihood.mean()) - self.log_likelihood)
        self.gain += share * (float(gain.mean()) - self.gain)
        self.square += share * (float(np.square(gain).mean()) - self.square)

    @property
    def mean_gain(self) -> float:
        """Return the mean gain, nats; NaN before a window of images was heard."""
        return self.gain if self._heard else math.nan

    @property
    def proven(self) -> bool:
        """Whether the images contradict the symmetry."""
        spread = math.sqrt(max(self.square - self.gain**2, 0.0) / max(self.images, 1.0))
        return self._heard and self.gain > max(_PROOF * self.log_likelihood, _STANDARD_ERRORS * spread)

    @property
    def dispelled(self) -> bool:
        """Whether they speak for it."""
        return self._heard and self.gain <= 0

    @property
    def text(self) -> str:
        """Return for people what they say."""
        gained = f"{self.gain:.1f} nats an image over the {self.log_likelihood:.0f} with it"
        return f"new images contradict it, a map without it gains {gained}"

    @property
    def _heard(self) -> bool:
        return self.images >= _WINDOW
