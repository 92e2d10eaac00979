"""The objective of a mini-batch: what its images say about the map at fixed pose weights, and the prior.

Everything goes through the kernels that the engine slices and inserts with, so that it is exact for the map that poses
are found against: gridding correction, mask, trilinear slices and all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.inference.importance import PoseSamples
from streamrecon.optimise.coordinates import BandCoordinates, band_coordinates
from streamrecon.optimise.interface import Vector, dot


@dataclass(frozen=True)
class MapModel:
    """From a map's coordinates to the cube that slices are taken from, and the adjoint.

    Attributes
    ----------
    backend : Backend
    pad : int
        Grid points a Fourier pixel.
    k_max : int, shells
    map_box : int
        Samples a side of the real-space map; at least 2 (k_max + 2).
    mask : Array, (map_box,)*3 float32, on the device
        By which the map is multiplied; 1 everywhere for none.
    """

    backend: Backend
    pad: int
    k_max: int
    map_box: int
    mask: Array

    @property
    def coordinates(self) -> BandCoordinates:
        """Return what the vectors' entries are."""
        return band_coordinates(self.k_max)

    @property
    def radius(self) -> int:
        """Return the grid points from the cube's origin to its edge."""
        return self.pad * self.k_max + 2

    def volume(self, vector: Vector) -> Array:
        """Return the map in real space, (map_box,)*3, masked; on the device."""
        transform = self.backend.to_device(self.coordinates.transform(vector, self.map_box))
        return self.backend.irfftn(transform, self.map_box) * self.mask

    def vector(self, volume: Array) -> NDArray[np.float32]:
        """Return the coordinates of a map in real space, (map_box,)*3."""
        return self.coordinates.vector(self.backend.to_host(self.backend.rfftn(volume)))

    def cube(self, vector: Vector) -> Array:
        """Return the half-space cube of the map, (z, y, x, 2)."""
        return self.backend.cube(self.volume(vector), self.pad, self.radius)

    def empty_grid(self) -> Array:
        """Return an accumulator as large as the cube, (z, y, x, 4)."""
        side = 2 * self.radius + 1
        return self.backend.zeros((side, side, self.radius + 1, 4))

    def adjoint(self, grid: Array) -> NDArray[np.float32]:
        """Return the adjoint of `cube` applied to an accumulator's numerator, (n,); its weights must be zero.

        Notes
        -----
        `Backend.solve` with weights of one is the adjoint of `Backend.cube`, but for a factor: it adds each stored
        value's Friedel mate, which counts it twice, and its inverse transform divides by the padded grid's points.
        """
        ones = np.ones(self.k_max + 3)
        # two of the same, and half of both
        solved = self.backend.solve((grid, grid), self.pad, self.k_max + 1, ones, 0.5, self.map_box)
        transform = self.backend.to_host(self.backend.rfftn(solved * self.mask))
        return np.float32(0.5 * self.pad**3) * self.coordinates.vector(transform)


class PosedImages:
    """The objective of n images at fixed pose weights; a `streamrecon.optimise.interface.Closure`.

    Parameters
    ----------
    model : MapModel
    box_size : int, pixels
        Of the images.
    points : HalfPlanePoints
        With the model's ``k_max``.
    weighed : Array, (3, n, n_points)
        From `Backend.weigh`.
    samples : PoseSamples
    minimum_weight : float
        Poses below are left out.
    precision : ndarray, (n_coordinates,), optional
        Of a Gaussian prior around zero, nats an image: the prior's own over the number of images that it belongs to.
    batch : int
        Number of the mini-batch in a finite set; -1 if it will not come again.

    Notes
    -----
    With U = A v the cube of the map with coordinates v, P_ij the slice of image i at its pose j, S_ij the shift, w_ij
    the pose's weight and p the precision,

        f(v) = 1/n sum_ij w_ij sum_k [ C^2 |P_ij U|^2 - 2 C Re(conj(I_i) S_ij P_ij U) ] / sigma2 + 1/2 sum p v^2

    which is minus the mean log-likelihood ratio to "noise alone" at these weights, that is 1/n sum_ij w_ij
    sum_k |I_i - C S_ij P_ij U|^2 / sigma2 but for a constant. It is quadratic: f(v) = v.Hv / 2 - b.v with

        b = 2/n A^T sum_ij w_ij P_ij^H conj(S_ij) C I_i / sigma2
        H = 2/n A^T sum_ij w_ij P_ij^H C^2 / sigma2 P_ij A + p

    b is what the engine inserts, and the diagonal of H is estimated from the weights that it inserts beside it: for
    slices whose eight fractions t add up to one, t t^T <= diag(t), and nearly so where the map is smooth on the grid.
    """

    def __init__(
        self,
        model: MapModel,
        box_size: int,
        points: HalfPlanePoints,
        weighed: Array,
        samples: PoseSamples,
        *,
        minimum_weight: float = 1e-3,
        precision: Vector | None = None,
        batch: int = -1,
    ) -> None:
        if points.k_max != model.k_max:
            raise ValueError(f"expected points up to shell {model.k_max}, found {points.k_max}")
        self.model = model
        self.images = len(samples.weight)
        self.batch = batch
        self._points = points
        self._samples = samples
        self._minimum_weight = minimum_weight
        self._power = weighed[2]
        self._gain = 2.0 / max(1, self.images)
        n = len(model.coordinates)
        self._precision = np.zeros(n, np.float32) if precision is None else np.asarray(precision, np.float32)
        grid = model.empty_grid()
        model.backend.insert(
            grid, model.pad, points, box_size, weighed, samples.rotation, samples.shift, samples.weight,
            minimum_weight, self._gain,
        )  # fmt: skip
        self._weights = self._joined(model.backend.to_host(grid[..., 2]))
        grid[..., 2] = 0.0
        self._linear = model.adjoint(grid)

    @staticmethod
    def _joined(weights: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the weights with both mates of the plane x = 0 as one."""
        joined = np.array(weights, np.float32)
        joined[:, :, 0] += weights[::-1, ::-1, 0]
        return joined

    @property
    def shell(self) -> NDArray[np.int32]:
        """Return each coordinate's shell."""
        return self.model.coordinates.shell

    def value(self, volume: Vector) -> float:
        """Return f(v), nats an image."""
        return 0.5 * dot(volume, self.product(volume)) - dot(self._linear, volume)

    def gradient(self, volume: Vector) -> Vector:
        """Return H v - b."""
        return np.asarray(self.product(volume) - self._linear)

    def product(self, direction: Vector) -> Vector:
        """Return H times a vector."""
        model, backend = self.model, self.model.backend
        grid = model.empty_grid()
        backend.normal(
            model.cube(direction), grid, model.pad, self._points, self._power, self._samples.rotation,
            self._samples.weight, self._minimum_weight, self._gain,
        )  # fmt: skip
        return np.asarray(model.adjoint(grid) + self._precision * direction, np.float32)

    @cached_property
    def curvature(self) -> Vector:
        """Return the estimate of H's diagonal."""
        # pad^3 grid points share a coefficient's weight; a stored one stands for itself and its mate, and holds the
        # factor two of H
        factor = np.float32(0.5 * self.model.pad**3)
        return factor * self.model.coordinates.sampled(_smoothed(self._weights), self.model.pad) + self._precision

    @property
    def largest_curvature(self) -> float:
        """Return an estimate of H's largest eigenvalue, mostly a little above it: what is smoothed over a slice's
        neighbourhood changes slowly, so that H is nearly diagonal there.
        """
        return float(self.curvature.max())


def _smoothed(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a half-space grid with each point averaged with its neighbours, 1/4 1/2 1/4 along each axis."""
    # beyond x = 0 lie the mates
    whole = np.concatenate([weights[::-1, ::-1, 1:2], weights], axis=2)
    for axis in range(3):
        whole = np.moveaxis(whole, axis, 0)
        middle = whole.copy()
        middle[1:-1] = 0.25 * whole[:-2] + 0.5 * whole[1:-1] + 0.25 * whole[2:]
        whole = np.moveaxis(middle, 0, axis)
    return whole[:, :, 1:]
