"""Stochastic average gradient descent: steps along the mean of the latest gradient of every mini-batch.

References
----------
Brubaker, Punjani and Fleet 2015, CVPR, "Building proteins in a day": section 4 (SAGD).
Le Roux, Schmidt and Bach 2012, NIPS 25 (SAG): the step, the search for L, and m of early iterations.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Arrays, Closure, Scalars, Vector, dot

SLOTS = 16
_RELAXATION = 2.0 ** (-1.0 / 150.0)  # of L, a mini-batch, as the paper has it


class Sagd(ScheduledOptimiser):
    """v <- v - epsilon / m sum_k d_k, d_k the gradient of mini-batch k when it was looked at last.

    Parameters
    ----------
    step, decay_images : float
        See `Schedule`; epsilon = step / L.
    slots : int
        Mini-batches that a stream's gradients are kept of.

    Notes
    -----
    m counts the mini-batches seen so far. In a finite set that is gone through again, ``closure.batch`` says whose
    gradient it is, and the table has one for each. In a stream no mini-batch comes twice; a new one takes the place of
    another, drawn at random, once ``slots`` are there: the same average over the gradients of late. (Drawn, and not
    the oldest: a mean over a fixed delay swings where that over random ones does not.)

    L is found as Le Roux et al. do: where f(v - g / L) > f(v) - |g|^2 / (2 L), L is doubled, and it falls a little with
    each mini-batch. For a quadratic that is to ask whether g.Hg / g.g > L, which takes one product.
    """

    name = "sagd"
    _vectors = ("table",)

    def __init__(self, step: float, decay_images: float, slots: int = SLOTS) -> None:
        self._slots = slots
        self._batches: list[int] = []
        self._steps = 0
        super().__init__(step, decay_images)

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        gradient = closure.gradient(volume)
        lipschitz = _RELAXATION * self._schedule.largest or 1e-3 * closure.largest_curvature
        bend = dot(gradient, closure.product(gradient)) / max(dot(gradient, gradient), 1e-30)
        while lipschitz < bend:
            lipschitz *= 2.0
        self._schedule.largest = lipschitz
        self.step_size = self._schedule.relative(closure) / max(lipschitz, 1e-30)
        self._keep(gradient, closure.batch)
        mean: Vector = self._memory["table"].mean(axis=0, dtype=np.float64).astype(volume.dtype)
        return volume - volume.dtype.type(self.step_size) * mean

    def _keep(self, gradient: Vector, batch: int) -> None:
        """Put a mini-batch's gradient into its place in the table."""
        n = len(gradient)
        table = self._memory.get("table", np.zeros((0, n), gradient.dtype))
        if table.shape[1] != n:
            other = np.zeros((len(table), n), gradient.dtype)
            kept = min(n, table.shape[1])
            other[:, :kept] = table[:, :kept]
            table = other
        if batch >= 0:
            slot = self._batches.index(batch) if batch in self._batches else len(table)
        else:
            slot = len(table)
            if slot >= self._slots:
                slot = int(np.random.Generator(np.random.Philox(key=self._steps)).integers(len(table)))
        if slot == len(table):
            table = np.concatenate([table, gradient[None]])
            self._batches.append(batch)
        else:
            table[slot] = gradient
        self._steps += 1
        self._memory["table"] = table

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._batches = []
        self._steps = 0

    def state(self) -> tuple[Arrays, Scalars]:
        """Return what the next step depends on."""
        arrays, scalars = super().state()
        return {**arrays, "batches": np.array(self._batches, np.int64)}, {**scalars, "steps": self._steps}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        super().restore(arrays, scalars)
        self._batches = [int(b) for b in np.asarray(arrays["batches"], np.int64)]
        self._steps = int(scalars["steps"])
