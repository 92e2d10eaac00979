"""Running sums of one half-set: numerator and weight, with forgetting that costs nothing.

Online EM's b <- (1 - rho) b + rho b_batch is kept as plain sums: instead of shrinking the whole grid for
each batch, new images come in with a gain that grows by 1 / (1 - rho), and the grid is brought
back to unit gain now and then. Plain sums, so that several workers can add up.

References
----------
Cappe and Moulines 2009, J. R. Stat. Soc. B 71, 593, eq. 10 (online EM's running statistics).
"""

from __future__ import annotations

from copy import copy

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.reconstruct.collective import Collective

_GAIN_LIMIT = 1e3


class Accumulator:
    """Half-space grid (z, y, x, 4) float32 of numerator (re, im), weight and one unused lane.

    Attributes
    ----------
    pad : int
        Grid points a Fourier pixel.
    radius : int
        Grid points from the origin to the edge.
    gain : float
        By which new images are multiplied.
    level : float
        Log of the gain that there would be had the grid never been brought back to unit gain: what was inserted at
        level l is in the grid ``gain exp(l - level)`` times.
    """

    def __init__(self, backend: Backend, pad: int, k_max: int) -> None:
        self._backend = backend
        self.pad = pad
        self.radius = pad * k_max + 2
        self.gain = 1.0
        self.level = 0.0
        self.grid = backend.zeros(self._shape(self.radius))

    @staticmethod
    def _shape(radius: int) -> tuple[int, int, int, int]:
        return (2 * radius + 1, 2 * radius + 1, radius + 1, 4)

    def grow(self, k_max: int) -> None:
        """Make room for a larger band; what was gathered stays."""
        radius = self.pad * k_max + 2
        if radius <= self.radius:
            return
        grown = self._backend.zeros(self._shape(radius))
        edge = radius - self.radius
        middle = slice(edge, edge + 2 * self.radius + 1)
        grown[middle, middle, : self.radius + 1] = self.grid
        self.grid, self.radius = grown, radius

    def forget(self, keep: float) -> None:
        """Let everything gathered so far count ``keep`` times as much; 0 forgets it."""
        if keep == 0.0:
            self.grid *= np.float32(0.0)
            self.gain = 1.0
            return
        self.gain /= keep
        self.level -= np.log(keep)
        if self.gain > _GAIN_LIMIT:
            self.grid *= np.float32(1.0 / self.gain)
            self.gain = 1.0

    def summed(self, collective: Collective) -> Accumulator:
        """Return an accumulator of what all ranks hold together; they grow and forget alike."""
        if collective.size == 1:
            return self
        total = copy(self)
        total.grid = collective.sum(self.grid)
        return total

    def load(self, grid: Array, gain: float, level: float) -> None:
        """Take up a saved grid, its gain and its level."""
        self.level = level
        self.grid = grid
        self.radius = grid.shape[2] - 1
        self.gain = gain
