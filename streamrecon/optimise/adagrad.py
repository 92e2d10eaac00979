"""AdaGrad: each coordinate's steps shrink with the gradients that it has seen.

References
----------
Duchi, Hazan and Singer 2011, J. Mach. Learn. Res. 12, 2121: Figure 1, diagonal; Corollary 6 on the step.
"""

from __future__ import annotations

import numpy as np

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Closure, Vector

_LEAST_CURVATURE = 0.1  # of the largest: the first batch of a shell may have all its CTFs' zeros there


class AdaGrad(ScheduledOptimiser):
    """v <- v - eta g / sqrt(G), with G the sum of all g^2 so far, each coordinate by itself.

    Parameters
    ----------
    step : float
        Of eta; see the notes.

    Notes
    -----
    The paper's bound is best where eta is as large as the coordinate's distance from the answer. Coordinates of a map
    differ by orders of magnitude in that, shell by shell. So eta is set for each shell when it first comes into the
    band: ``step`` times the root mean square of its first Newton steps g / h, h the shell's mean curvature. Within a
    shell, and in time, the method is the paper's.
    """

    name = "adagrad"
    _vectors = ("squares", "eta")

    def __init__(self, step: float) -> None:
        super().__init__(step, float("inf"))  # steps fall as 1 / sqrt(t) by themselves
        self._eta = step

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        gradient = closure.gradient(volume)
        eta = self._recall("eta", volume)
        new = eta == 0
        if new.any():
            eta = np.where(new, self._eta * _newton_size(gradient, closure), eta)
            eta = eta.astype(volume.dtype)
        squares = self._recall("squares", volume) + gradient**2
        rate = np.divide(eta, np.sqrt(squares), out=np.zeros_like(eta), where=squares > 0)
        self._memory = {"squares": squares, "eta": eta}
        self.step_size = float(rate.mean())
        return volume - rate * gradient


def _newton_size(gradient: Vector, closure: Closure) -> Vector:
    """Return the root mean square of g / h of each coordinate's shell, (n,)."""
    shell = closure.shell
    count = np.bincount(shell)
    size = np.sqrt(np.bincount(shell, weights=gradient.astype(np.float64) ** 2) / np.maximum(count, 1))
    curvature = np.bincount(shell, weights=closure.curvature) / np.maximum(count, 1)
    floor = max(_LEAST_CURVATURE * float(curvature.max()), 1e-30)
    return np.asarray((size / np.maximum(curvature, floor))[shell], gradient.dtype)
