"""Gradient descent with momentum: the classical heavy ball, and Nesterov's accelerated gradient in the same form.

References
----------
Polyak 1964, USSR Comput. Math. Math. Phys. 4, 1. Nesterov 1983, Sov. Math. Dokl. 27, 372.
Sutskever, Martens, Dahl and Hinton 2013, ICML: eq. 1 and 2 (momentum), 3 and 4 (Nesterov).
"""

from __future__ import annotations

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Closure, Vector

MOMENTUM = 0.9


class Momentum(ScheduledOptimiser):
    """u <- mu u - epsilon g(v), then v <- v + u (Sutskever et al. 2013, eq. 1 and 2).

    Parameters
    ----------
    step, decay_images : float
        See `Schedule`. Steps along a steady gradient add up to 1 / (1 - mu) times as much.
    momentum : float
        mu.
    """

    name = "momentum"
    _vectors = ("velocity",)

    def __init__(self, step: float, decay_images: float, momentum: float = MOMENTUM) -> None:
        super().__init__(step, decay_images)
        self._momentum = momentum

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        carried = volume.dtype.type(self._momentum) * self._recall("velocity", volume)
        self.step_size = self._schedule.absolute(closure)
        gradient = closure.gradient(self._where(volume, carried))
        velocity = carried - volume.dtype.type(self.step_size) * gradient
        self._memory["velocity"] = velocity
        return volume + velocity

    def _where(self, volume: Vector, carried: Vector) -> Vector:  # noqa: ARG002 - Nesterov's needs it
        """Return where the gradient is taken."""
        return volume


class Nesterov(Momentum):
    """u <- mu u - epsilon g(v + mu u), then v <- v + u (Sutskever et al. 2013, eq. 3 and 4)."""

    name = "nesterov"

    def _where(self, volume: Vector, carried: Vector) -> Vector:
        return volume + carried
