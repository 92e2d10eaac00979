"""Quadratics of which everything is known: the exact one, and one that a method sees through noise."""

from __future__ import annotations

import numpy as np


class Quadratic:
    """f(v) = (v - minimum).H (v - minimum) / 2, as a mini-batch would give it."""

    def __init__(self, hessian, minimum, *, batch=-1, images=50, offset=None):
        self.hessian, self.minimum = np.asarray(hessian, float), np.asarray(minimum, float)
        self.batch, self.images = batch, images
        self.shell = np.zeros(len(self.minimum), np.int32)
        # the gradient's own error: what a mini-batch adds to it
        self.offset = np.zeros(len(self.minimum)) if offset is None else offset
        self.gradients = self.products = 0

    def value(self, volume):
        away = volume - self.minimum
        return 0.5 * away @ self.hessian @ away + self.offset @ away

    def gradient(self, volume):
        self.gradients += 1
        return (self.hessian @ (volume - self.minimum) + self.offset).astype(volume.dtype)

    def product(self, direction):
        self.products += 1
        return (self.hessian @ direction).astype(direction.dtype)

    @property
    def curvature(self):
        return np.diag(self.hessian).copy()

    @property
    def largest_curvature(self):
        return float(np.linalg.eigvalsh(self.hessian)[-1])


def rotated(eigenvalues, seed=3):
    """Return a Hessian of these eigenvalues in no special basis."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return (q * np.asarray(eigenvalues)) @ q.T
