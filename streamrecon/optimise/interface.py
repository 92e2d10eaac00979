"""What an optimiser is given, and what it is: the closure of a mini-batch, and the step from one map to the next.

A map is a vector of real numbers here (see `streamrecon.optimise.coordinates`). It may be longer or shorter than at the
step before, as the band moves: entries are ordered by frequency, so a narrower band is the beginning of a wider one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.floating[Any]]
Arrays: TypeAlias = dict[str, NDArray[np.generic]]
Scalars: TypeAlias = dict[str, int | float | str]


class Closure(Protocol):
    """A mini-batch at fixed pose weights: the objective, its gradient and its curvature, nats an image.

    All of them are means over the images of the mini-batch, so that step sizes do not depend on how many there are.
    Vectors come back in the floating-point type of those that are given.
    """

    @property
    def images(self) -> int:
        """Return the images of the mini-batch; what schedules count."""

    @property
    def batch(self) -> int:
        """Return the number of the mini-batch within a finite set that is gone through again; -1 in a stream."""

    @property
    def shell(self) -> NDArray[np.int32]:
        """Return which group of coordinates of the same scale each belongs to, (n,); in a map, its shell."""

    def value(self, volume: Vector) -> float:
        """Return the objective."""

    def gradient(self, volume: Vector) -> Vector:
        """Return its exact gradient, (n,)."""

    def product(self, direction: Vector) -> Vector:
        """Return the exact product of its Hessian and a vector, (n,)."""

    @property
    def curvature(self) -> Vector:
        """Return an estimate of the Hessian's diagonal, (n,), nowhere negative."""

    @property
    def largest_curvature(self) -> float:
        """Return the Hessian's largest eigenvalue, or a bound from above that is not far from it."""


class Optimiser(Protocol):
    """A method: its step, and what it remembers from one to the next.

    Attributes
    ----------
    name : str
        As in config.toml.
    step_size : float
        By which the latest direction was multiplied; NaN before the first step. Its unit is the method's own.
    """

    name: str
    step_size: float

    def step(self, volume: Vector, closure: Closure) -> Vector:
        """Return the map after one mini-batch; the one given stays as it is."""

    def reset(self) -> None:
        """Forget everything that was remembered: the map was replaced, or the images mean something else now."""

    def state(self) -> tuple[Arrays, Scalars]:
        """Return what the next step depends on; the arrays are not copied."""

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""


def fitted(vector: Vector, n: int, fill: float = 0.0) -> Vector:
    """Return a vector at another band: its beginning, or followed by ``fill``."""
    if len(vector) == n:
        return vector
    out = np.full(n, fill, vector.dtype)
    kept = min(n, len(vector))
    out[:kept] = vector[:kept]
    return out


def dot(a: Vector, b: Vector) -> float:
    """Return the inner product, summed in double precision."""
    return float(np.einsum("i,i->", a, b, dtype=np.float64))
