"""Hessian-free optimisation: truncated Newton steps by conjugate gradients, damped as much as the next images ask.

References
----------
Martens 2010, ICML, "Deep learning via Hessian-free optimization": Algorithm 2, sections 4.1 (damping), 4.4
(stopping), 4.5 (where to start) and 4.7 (preconditioner).
"""

from __future__ import annotations

import numpy as np

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Closure, Vector, dot

_MOST_ITERATIONS = 60
_PRECONDITIONER_POWER = 0.75
_PROGRESS = 5e-4  # Martens' epsilon: relative progress an iteration, over the last k
_LOOK_BACK = 10  # his k, at least
_CARRIED = 0.95  # of the last step, where the iterations begin
_DAMPING_RANGE = (1e-4, 1e4)  # times the largest curvature


class HessianFree(ScheduledOptimiser):
    """v <- v + d, (H + lambda) d = -g solved by preconditioned conjugate gradients from the last d.

    Parameters
    ----------
    step : float
        lambda at the start, in units of the largest curvature.

    Notes
    -----
    The objective of a mini-batch at fixed weights is quadratic: its Gauss-Newton matrix is its Hessian H, and its
    quadratic model is itself, so Martens' reduction ratio would be 1 at every step. What steps may not go beyond is not
    the model's range here but the mini-batch's own noise. So the ratio is asked of the *next* mini-batch: how much of
    the step d it would have made along d,

        rho = -g'(v).d / d.H'd,        g' before the step, g'(v).d = g'(v + d).d - d.H'd

    which is 1 where d went just as far as the new images say. Then, by his rule and factors, lambda <- 3/2 lambda
    where d went too far, rho < 3/4, and 2/3 lambda where rho > 4/3. Noiseless images let lambda fall to nothing, which
    is Newton's method; noisy ones raise it until steps are no larger than what they know.
    """

    name = "hessian_free"
    _vectors = ("direction",)

    def __init__(self, step: float) -> None:
        super().__init__(step, float("inf"))  # lambda sees to how far steps go
        self._first_damping = step

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch; ``step_size`` becomes one over lambda."""
        gradient = closure.gradient(volume)
        last = self._recall("direction", volume)
        largest = max(closure.largest_curvature, 1e-30)
        damping = self._schedule.largest or self._first_damping * largest
        if last.any():
            damping *= _rule(last, gradient, closure)
        damping = float(np.clip(damping, _DAMPING_RANGE[0] * largest, _DAMPING_RANGE[1] * largest))
        self._schedule.largest = damping
        self.step_size = 1.0 / damping
        direction = _conjugate_gradients(closure, gradient, volume.dtype.type(_CARRIED) * last, damping)
        self._memory["direction"] = direction
        return volume + direction


def _rule(last: Vector, gradient: Vector, closure: Closure) -> float:
    """Return by what lambda is multiplied, from what a new mini-batch says of the last step."""
    bend = dot(last, closure.product(last))
    ratio = (bend - dot(gradient, last)) / max(bend, 1e-30)
    if ratio < 3.0 / 4.0:
        return 3.0 / 2.0
    return 2.0 / 3.0 if ratio > 4.0 / 3.0 else 1.0


def _conjugate_gradients(closure: Closure, gradient: Vector, start: Vector, damping: float) -> Vector:
    """Solve (H + lambda) d = -g until Martens' test says that more iterations do not pay.

    It stops at iteration i > k where phi < 0 and phi_i - phi_(i - k) > k epsilon phi_i (both are negative), with
    phi(d) = d.(H + lambda)d / 2 + g.d and k the larger of 10 and i / 10.
    """
    kind = gradient.dtype.type
    scale = ((closure.curvature + damping) ** _PRECONDITIONER_POWER).astype(gradient.dtype)

    def damped(vector: Vector) -> Vector:
        return closure.product(vector) + kind(damping) * vector

    direction = start
    residual = -gradient - damped(direction) if direction.any() else -gradient
    if dot(direction, gradient - residual) / 2.0 > 0.0:  # phi > 0: worse than to begin at nothing
        direction, residual = np.zeros_like(gradient), -gradient
    scaled = residual / scale
    search, product = scaled, dot(residual, scaled)
    first = product
    # phi = (d.(A d) + 2 g.d) / 2 with A d = -g - r
    values = [0.5 * dot(direction, gradient - residual)]
    for i in range(1, _MOST_ITERATIONS + 1):
        if product <= 1e-12 * first:
            break
        answer = damped(search)
        length = product / dot(search, answer)
        direction = direction + kind(length) * search
        residual = residual - kind(length) * answer
        values.append(0.5 * dot(direction, gradient - residual))
        k = max(_LOOK_BACK, i // 10)
        if i > k and values[i] < 0 and (values[i] - values[i - k]) / values[i] < k * _PROGRESS:
            break
        scaled = residual / scale
        new = dot(residual, scaled)
        search = scaled + kind(new / product) * search
        product = new
    return direction
