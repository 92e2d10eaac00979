"""Online expectation maximisation as a gradient method: what the engine's running sums do, step by step.

References
----------
Cappe and Moulines 2009, J. R. Stat. Soc. B 71, 593: eq. 10.
"""

from __future__ import annotations

import numpy as np

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Closure, Vector

_FLOOR = 1e-3  # of the mean weight: what no image says anything about stays where it is


class OnlineEm(ScheduledOptimiser):
    """a <- (1 - rho) a + h, then v <- v - g(v) / a, with h the mini-batch's curvature.

    Parameters
    ----------
    step, decay_images : float
        See `Schedule`; rho.

    Notes
    -----
    Where h is the Hessian's whole diagonal and there is nothing beside it, g = h v - c, this is v = b / a with the
    running sums a and b <- (1 - rho) b + c: a' v' = (1 - rho) a v + c if v' = v - (h v - c) / a'. The engine keeps b
    and a on the padded grid; this is for the company of the other methods, on any `Closure`.
    """

    name = "online_em"
    _vectors = ("weight",)

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        self.step_size = self._schedule.relative(closure)
        weight = volume.dtype.type(1.0 - self.step_size) * self._recall("weight", volume) + closure.curvature
        self._memory["weight"] = weight.astype(volume.dtype)
        floor = _FLOOR * float(weight.mean())
        return np.asarray(volume - closure.gradient(volume) / np.maximum(weight, max(floor, 1e-30)), volume.dtype)
