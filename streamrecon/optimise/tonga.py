"""TONGA: online natural gradient with a low-rank covariance of recent gradients.

References
----------
Le Roux, Manzagol and Bengio 2008, NIPS 20, "Topmoumoute online natural gradient algorithm": section 4, the low-rank C.
"""

from __future__ import annotations

import numpy as np

from streamrecon.optimise.base import ScheduledOptimiser
from streamrecon.optimise.interface import Closure, Vector, dot

RANK = 8
WINDOW = 8
FORGETTING = 0.99
REGULARISATION = 1.0


class Tonga(ScheduledOptimiser):
    """v <- v - epsilon lambda (C + lambda)^-1 g, with C the decayed uncentred covariance of the gradients.

    Parameters
    ----------
    step, decay_images : float
        See `Schedule`; 1 / epsilon is the largest curvature that directions were found to have of late, after C.
    rank, window : int
        Eigenvectors that are kept (k), and gradients between two eigendecompositions (b).
    forgetting : float
        gamma, by which older gradients count less with each new one.
    regularisation : float
        lambda, in units of the mean of C's eigenvalues that are known.

    Notes
    -----
    With X the matrix whose columns are the scaled eigenvectors and the b gradients since, each times its power of
    sqrt(gamma), C = X X^T, and by Woodbury's identity, with G = X^T X the small Gram matrix,

        (C + lambda)^-1 g = X (G + lambda)^-1 y,        g = X y,   y = (0, ..., 0, 1)

    Every b gradients C is replaced by its k largest eigenvalues: X <- X U, U those eigenvectors of G. The factor
    lambda in front leaves alone what C knows nothing of; it belongs to the step size in the paper.
    """

    name = "tonga"
    _vectors = ("columns",)

    def __init__(
        self,
        step: float,
        decay_images: float,
        rank: int = RANK,
        window: int = WINDOW,
        forgetting: float = FORGETTING,
        regularisation: float = REGULARISATION,
    ) -> None:
        super().__init__(step, decay_images)
        self._rank, self._window = rank, window
        self._forgetting, self._regularisation = forgetting, regularisation

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch."""
        gradient = closure.gradient(volume)
        direction = self._natural(gradient)
        # the curvature along the direction, in the metric that makes it a gradient: no more than the largest of
        # lambda (C + lambda)^-1 H
        seen = dot(direction, closure.product(direction)) / max(dot(direction, gradient), 1e-30)
        self.step_size = self._schedule.against(seen, closure)
        return volume - volume.dtype.type(self.step_size) * direction

    def _natural(self, gradient: Vector) -> Vector:
        """Take a gradient into the covariance and return lambda (C + lambda)^-1 of it."""
        n = len(gradient)
        old = self._memory.get("columns", np.zeros((0, n), gradient.dtype))
        columns = np.zeros((len(old) + 1, n), gradient.dtype)
        kept = min(n, old.shape[1])
        columns[:-1, :kept] = np.sqrt(self._forgetting) * old[:, :kept]
        columns[-1] = gradient
        gram = columns @ columns.T
        mean = float(np.trace(gram)) / len(gram)
        y = np.zeros(len(gram))
        y[-1] = 1.0
        floor = self._regularisation * mean
        weights = floor * np.linalg.solve(gram.astype(np.float64) + floor * np.eye(len(gram)), y)
        if len(columns) >= self._rank + self._window:
            _, vectors = np.linalg.eigh(gram.astype(np.float64))
            self._memory["columns"] = vectors[:, -self._rank :].T.astype(gradient.dtype) @ columns
        else:
            self._memory["columns"] = columns
        direction: Vector = weights.astype(gradient.dtype) @ columns
        return direction
