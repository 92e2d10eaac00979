"""Online L-BFGS: quasi-Newton directions from gradient differences that are each taken on one mini-batch.

References
----------
Schraudolph, Yu and Guenter 2007, AISTATS, "A stochastic quasi-Newton method for online convex optimization":
online BFGS, its limited-memory direction (two loops), and the scale of that, averaged over what is remembered.
"""

from __future__ import annotations

import numpy as np

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Closure, Vector, dot

MEMORY = 10
_LEAST_CURVATURE = 1e-3  # of the largest: steps that show less are noise, and would make the next one wild


class OnlineLbfgs(ScheduledOptimiser):
    """v <- v + s, s = -epsilon B g, with B from the last m pairs of s and y = g(v + s) - g(v) on the same mini-batch.

    Parameters
    ----------
    step, decay_images : float
        See `Schedule`; without unit, 1 is the whole of the quasi-Newton step, and the first step is that times one over
        the largest curvature.
    memory : int
        m.
    trust : float
        lambda of y <- y + lambda s, in units of the largest curvature: the curvature that is taken for granted.

    Notes
    -----
    Each step is checked against its own mini-batch: it never goes beyond that batch's minimum along s, and a pair is
    remembered only where s.y > 0 by a margin, so that B stays positive. The gradient difference is H s here, one
    product, since the objective is quadratic at fixed weights: the same number without the rounding of a difference.
    """

    name = "olbfgs"
    _vectors = ("steps", "differences")

    def __init__(self, step: float, decay_images: float, memory: int = MEMORY, trust: float = 0.01) -> None:
        super().__init__(step, decay_images)
        self._length, self._trust = memory, trust

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        kind = volume.dtype.type
        gradient = closure.gradient(volume)
        steps, differences = self._pairs("steps", volume), self._pairs("differences", volume)
        self.step_size = self._schedule.absolute(closure)
        largest = self._schedule.largest
        if len(steps):
            self.step_size *= largest  # B has the curvature's unit in it already
        move = kind(-self.step_size) * _direction(gradient, steps, differences)
        answer = closure.product(move)
        slope, bend = dot(gradient, move), dot(move, answer)
        if slope >= 0:  # not downhill: what is remembered does not fit this mini-batch
            self._memory.clear()
            return volume
        if bend > -slope:
            shorter = kind(-slope / bend)
            move, answer = shorter * move, shorter * answer
        difference = answer + kind(self._trust * largest) * move
        if dot(move, difference) > _LEAST_CURVATURE * largest * dot(move, move):
            self._memory["steps"] = np.concatenate([steps, move[None]])[-self._length :]
            self._memory["differences"] = np.concatenate([differences, difference[None]])[-self._length :]
        return volume + move

    def _pairs(self, name: str, like: Vector) -> Vector:
        """Return the remembered vectors at the map's present band, (m, n), the latest last."""
        n = len(like)
        old = self._memory.get(name, np.zeros((0, n), like.dtype))
        if old.shape[1] == n:
            return old
        out = np.zeros((len(old), n), like.dtype)
        kept = min(n, old.shape[1])
        out[:, :kept] = old[:, :kept]
        return out


def _direction(gradient: Vector, steps: Vector, differences: Vector) -> Vector:
    """Return B g by the two loops; g itself where nothing is remembered yet."""
    kind = gradient.dtype.type
    out = gradient.copy()
    shares = []
    for s, y in zip(steps[::-1], differences[::-1], strict=True):
        share = dot(s, out) / dot(s, y)
        out -= kind(share) * y
        shares.append(share)
    if len(steps):
        # averaged over what is remembered, as single pairs are noisy
        out *= kind(np.mean([dot(s, y) / dot(y, y) for s, y in zip(steps, differences, strict=True)]))
    for s, y, share in zip(steps, differences, reversed(shares), strict=True):
        out += kind(share - dot(y, out) / dot(s, y)) * s
    return out
