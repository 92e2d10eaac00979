"""Images made ready for inference: masked, transformed, with their CTF and noise weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints, points_within
from streamrecon.fourier.polar import PolarGrid, polar_from_image_matrix
from streamrecon.inference.compact import CompactImages, encode


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
    compact : CompactImages or None
        The images as they are kept; ``real`` and ``imaginary`` are then what comes back from them.
    """

    real: Array
    imaginary: Array
    ctf: Array
    rings: Array
    ring_ctf: Array
    power: Array
    group: Array
    mask_fill: float
    compact: CompactImages | None = None


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
        self._within: tuple[tuple[int, int], Array] | None = None
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
        band: HalfPlanePoints | None = None,
    ) -> Observations:
        """Prepare a batch.

        Parameters
        ----------
        images : ndarray, (n, box, box) float32, on the host
            Each piece of the batch is sent to the device as its turn comes, while the one before is worked on.
        ctf_coefficients : ndarray, (n, 5) float32
        frequency_step : ndarray, (n,) float32, 1/angstrom a Fourier pixel
        group : ndarray, (n,) int32
        band : HalfPlanePoints, optional
            Keep the images up to here; they are then used as they come back.
        """
        backend, grid = self._backend, self._grid
        n_shells = self._geometry.box_size // 2 + 1
        ctf_coefficients, frequency_step = backend.to_device(ctf_coefficients), backend.to_device(frequency_step)

        def piece(a: int, b: int) -> tuple[Array, ...]:
            transforms = backend.image_transforms(backend.to_device(images[a:b]), self._mask)
            real, imaginary = backend.half_plane(transforms, points if band is None else band)
            coefficients, step = ctf_coefficients[a:b], frequency_step[a:b]
            return (
                real,
                imaginary,
                backend.ctf(coefficients, points.kx, points.ky, step),
                backend.rings(transforms, self._matrix, self._small_box),
                backend.ctf(coefficients, grid.kx, grid.ky, step),
                backend.shell_power(transforms, n_shells),
                transforms[:, 0, 0].real,
            )

        # the ring matrix is larger than the caches
        pieces = backend.run(piece, len(images), few=True)
        columns = (backend.concatenate(column) for column in zip(*pieces, strict=True))
        real, imaginary, ctf, rings, ring_ctf, power, zero = columns
        power = backend.to_host(power)
        if band is None:
            return Observations(real, imaginary, ctf, rings, ring_ctf, power, group, self._mask_fill)
        compact, real, imaginary = encode(backend, real, imaginary, backend.to_host(zero))
        columns_kept = self._columns(points, band)
        real, imaginary = (part.take(columns_kept, axis=1) for part in (real, imaginary))
        return Observations(real, imaginary, ctf, rings, ring_ctf, power, group, self._mask_fill, compact)

    def _columns(self, points: HalfPlanePoints, band: HalfPlanePoints) -> Array:
        """Return where the points stand among those of the band, on the device; the latest is kept."""
        key = (points.k_max, band.k_max)
        if self._within is None or self._within[0] != key:
            self._within = (key, self._backend.to_device(points_within(band, points.k_max)[1]))
        return self._within[1]

    def recall(
        self,
        compact: CompactImages,
        ctf_coefficients: Array,
        frequency_step: Array,
        group: Array,
        points: HalfPlanePoints,
        band: HalfPlanePoints,
    ) -> Observations:
        """Make observations of images that were kept; their power ends with the band.

        Parameters
        ----------
        compact : CompactImages, n images at the points of ``band``
        ctf_coefficients, frequency_step, group, points : as for `prepare`
        """
        backend, grid = self._backend, self._grid
        real, imaginary = compact.decode()  # on the host
        _, columns = points_within(band, points.k_max)
        placement = _Placement(band, self._small_box)
        n_shells = band.k_max + 1

        def piece(a: int, b: int) -> tuple[Array, ...]:
            transforms = backend.to_device(placement.transforms(real[a:b], imaginary[a:b], compact.zero[a:b]))
            coefficients, step = ctf_coefficients[a:b], frequency_step[a:b]
            return (
                backend.ctf(coefficients, points.kx, points.ky, step),
                backend.rings(transforms, self._matrix, self._small_box),
                backend.ctf(coefficients, grid.kx, grid.ky, step),
            )

        ctf_coefficients, frequency_step = backend.to_device(ctf_coefficients), backend.to_device(frequency_step)
        pieces = backend.run(piece, len(compact), few=True)
        ctf, rings, ring_ctf = (backend.concatenate(column) for column in zip(*pieces, strict=True))
        power = np.zeros((len(compact), n_shells), np.float32)
        counts = np.maximum(np.bincount(band.shell, minlength=n_shells), 1)
        order = np.argsort(band.shell, kind="stable")
        starts = np.searchsorted(band.shell[order], np.arange(1, n_shells))
        squared = (real**2 + imaginary**2)[:, order]
        power[:, 1:] = np.add.reduceat(squared, starts, axis=1) / counts[1:]
        real, imaginary = (backend.to_device(np.ascontiguousarray(part[:, columns])) for part in (real, imaginary))
        return Observations(real, imaginary, ctf, rings, ring_ctf, power, group, self._mask_fill, compact)


class _Placement:
    """Where half-plane points go in the transform of a small box, origin at the first pixel."""

    def __init__(self, band: HalfPlanePoints, small_box: int) -> None:
        half = small_box // 2
        kx, ky = band.kx.astype(np.int64), band.ky.astype(np.int64)
        self._inside = np.flatnonzero((kx < half) & (np.abs(ky) < half))
        self._kx, self._ky = kx[self._inside], ky[self._inside]
        # images have their origin in the middle of the box, transforms at the first pixel
        self._sign = np.where((self._kx + self._ky) % 2 == 0, 1.0, -1.0).astype(np.float32)
        self._small_box = small_box

    def transforms(self, real: Array, imaginary: Array, zero: Array) -> Array:
        """Return (n, small_box, small_box // 2 + 1) complex64."""
        out = np.zeros((len(real), self._small_box, self._small_box // 2 + 1), np.complex64)
        values = self._sign * (real[:, self._inside] + np.complex64(1j) * imaginary[:, self._inside])
        out[:, self._ky % self._small_box, self._kx] = values
        # the column kx = 0 holds both mates of each pair
        axis = self._kx == 0
        out[:, -self._ky[axis] % self._small_box, 0] = np.conj(values[:, axis])
        out[:, 0, 0] = zero
        return out
