"""Images made ready for inference: masked, transformed, with their CTF and noise weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.fourier.polar import PolarGrid, polar_from_image_matrix


@dataclass(frozen=True)
class ImageGeometry:
    """What all images of a session have in common.

    Attributes
    ----------
    box_size : int, pixels
    pixel_size_angstrom : float
    particle_radius : float, pixels
    shift_range : float, pixels
    """

    box_size: int
    pixel_size_angstrom: float
    particle_radius: float
    shift_range: float

    @property
    def frequency_step(self) -> float:
        """1/angstrom a Fourier pixel."""
        return 1.0 / (self.box_size * self.pixel_size_angstrom)

    def image_mask(self) -> Array:
        """Return a soft disc (box, box) float32 that keeps every particle within the shift range whole."""
        edge = max(2.0, 0.06 * self.box_size)
        radius = min(self.particle_radius + self.shift_range, self.box_size / 2 - edge)
        return soft_sphere(self.box_size, radius, edge, dimensions=2)


def soft_sphere(box_size: int, radius: float, edge: float, dimensions: int) -> Array:
    """Return 1 inside ``radius``, a raised cosine over ``edge`` pixels, 0 outside; (box,)*dimensions float32."""
    axis = (np.arange(box_size) - box_size // 2).astype(np.float64) ** 2
    squared = axis
    for _ in range(dimensions - 1):
        squared = np.add.outer(squared, axis)
    distance = (np.sqrt(squared) - radius) / edge
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(distance, 0.0, 1.0)), np.float32)


@dataclass(frozen=True)
class Observations:
    """n images as the likelihood sees them; every array has n rows.

    Attributes
    ----------
    real, imaginary, ctf : (n, n_points) float32
    rings : (n, re|im, n_rings * n_half) float32
    ring_ctf : (n, n_rings * n_half) float32
    power : (n, n_shells) float32, on the host
        Mean |F|^2 of the masked image by shell.
    group : (n,) int32, on the host
        Optics group.
    mask_fill : float
        Mean square of the mask: the share of the noise's power that it lets through.
    """

    real: Array
    imaginary: Array
    ctf: Array
    rings: Array
    ring_ctf: Array
    power: Array
    group: Array
    mask_fill: float


class Preparer:
    """Turns raw images into `Observations`.

    Parameters
    ----------
    masked : bool
        Lay a soft disc over each image. It keeps noise out of the likelihood, and cuts off what the CTF spreads beyond
        it: a map of known poses is better made without.
    """

    def __init__(self, backend: Backend, geometry: ImageGeometry, grid: PolarGrid, *, masked: bool = True) -> None:
        self._backend = backend
        self._geometry = geometry
        self._grid = grid
        mask = geometry.image_mask() if masked else np.ones((geometry.box_size,) * 2, np.float32)
        self._mask_fill = float(np.mean(mask.astype(np.float64) ** 2))
        self._mask = backend.to_device(mask)
        # rings read a little beyond their own frequency: a mask spreads every coefficient over its neighbours
        small = min(geometry.box_size, 2 * (grid.n_rings + 8))
        self._small_box = small
        self._matrix = backend.to_device(polar_from_image_matrix(grid, small))

    def prepare(
        self,
        images: Array,
        ctf_coefficients: Array,
        frequency_step: Array,
        group: Array,
        points: HalfPlanePoints,
    ) -> Observations:
        """Prepare a batch.

        Parameters
        ----------
        images : ndarray, (n, box, box) float32, on the host
            Each piece of the batch is sent to the device as its turn comes, while the one before is worked on.
        ctf_coefficients : ndarray, (n, 5) float32
        frequency_step : ndarray, (n,) float32, 1/angstrom a Fourier pixel
        group : ndarray, (n,) int32
        """
        backend, grid = self._backend, self._grid
        n_shells = self._geometry.box_size // 2 + 1
        ctf_coefficients, frequency_step = backend.to_device(ctf_coefficients), backend.to_device(frequency_step)

        def piece(a: int, b: int) -> tuple[Array, ...]:
            transforms = backend.image_transforms(backend.to_device(images[a:b]), self._mask)
            real, imaginary = backend.half_plane(transforms, points)
            coefficients, step = ctf_coefficients[a:b], frequency_step[a:b]
            return (
                real,
                imaginary,
                backend.ctf(coefficients, points.kx, points.ky, step),
                backend.rings(transforms, self._matrix, self._small_box),
                backend.ctf(coefficients, grid.kx, grid.ky, step),
                backend.shell_power(transforms, n_shells),
            )

        # the ring matrix is larger than the caches
        pieces = backend.run(piece, len(images), few=True)
        real, imaginary, ctf, rings, ring_ctf, power = (
            backend.concatenate(column) for column in zip(*pieces, strict=True)
        )
        return Observations(real, imaginary, ctf, rings, ring_ctf, backend.to_host(power), group, self._mask_fill)
