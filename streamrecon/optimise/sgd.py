"""Stochastic gradient descent.

References
----------
Robbins and Monro 1951, Ann. Math. Stat. 22, 400. Punjani and Brubaker's "vanilla" method.
"""

from __future__ import annotations

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Closure, Vector


class Sgd(ScheduledOptimiser):
    """v <- v - epsilon g(v)."""

    name = "sgd"

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        self.step_size = self._schedule.absolute(closure)
        return volume - volume.dtype.type(self.step_size) * closure.gradient(volume)
