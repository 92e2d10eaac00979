"""What most optimisers share: a schedule, and a few vectors that are remembered and follow the band."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from streamrecon.optimise.interface import Arrays, Closure, Scalars, Vector, fitted
from streamrecon.optimise.schedule import Schedule


class ScheduledOptimiser:
    """An optimiser whose memory is a schedule and vectors of the map's length, zero at first.

    Parameters
    ----------
    step, decay_images : float
        See `Schedule`.
    """

    name = ""
    _vectors: tuple[str, ...] = ()

    def __init__(self, step: float, decay_images: float) -> None:
        self._schedule = Schedule(step, decay_images)
        self._memory: dict[str, Vector] = {}
        self.step_size = float("nan")

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        raise NotImplementedError

    def _recall(self, name: str, like: Vector) -> Vector:
        """Return a remembered vector at the map's present band."""
        return fitted(self._memory.get(name, np.zeros(0, like.dtype)), len(like))

    def reset(self) -> None:
        """Forget everything."""
        self._schedule.reset()
        self._memory.clear()

    def state(self) -> tuple[Arrays, Scalars]:
        """Return what the next step depends on."""
        return {**self._memory}, {**self._schedule.state(), "step_size": self.step_size}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self._schedule.restore(scalars)
        self.step_size = float(scalars["step_size"])
        self._memory = {name: np.array(arrays[name]) for name in self._vectors if name in arrays}
