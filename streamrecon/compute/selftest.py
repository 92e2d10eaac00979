"""Every method of a backend against the CPU backend, on small random data: is this device, are these kernels, right?

Both get the same inputs, made on the CPU: an error in one kernel does not spread into the check of the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.polar import polar_from_image_matrix, polar_grid
from streamrecon.geometry.quadrature import pose_cells
from streamrecon.geometry.rotation import random_rotations

_PAD = 2
_MINIMUM_WEIGHT, _GAIN = 1e-3, 1.5
_PRODUCTS = frozenset({"rings", "slice_coefficients", "image_coefficients", "correlate"})
_TF32_TOLERANCE = 5e-3
_CTF_SPREAD = (800.0, 800.0, 100.0, 9e3, 1.0)  # phases of tens of radians at the rim


@dataclass(frozen=True)
class CheckSizes:
    """Sizes of the random data.

    Attributes
    ----------
    box : int, pixels, even
    k_max : int, shells, below box / 2
    images, samples : int
        n and K.
    rings, in_plane_angles, direction_order : int
        Of the global search; ``direction_order`` a power of two.
    seed : int
    """

    box: int = 48
    k_max: int = 20
    images: int = 12
    samples: int = 24
    rings: int = 10
    in_plane_angles: int = 24
    direction_order: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Comparison:
    """How far one result lies from the CPU's.

    Attributes
    ----------
    name : str
    error : float
        The largest difference over the largest value; for draws, the share of draws that differ.
    tolerance : float
    """

    name: str
    error: float
    tolerance: float

    @property
    def good(self) -> bool:
        """Return whether the error is within the tolerance; NaN is not."""
        return bool(self.error <= self.tolerance)


def compare_with_cpu(backend: Backend, sizes: CheckSizes | None = None, *, tf32: bool = False) -> list[Comparison]:
    """Return a comparison for every result of every method of ``backend``.

    Parameters
    ----------
    backend : Backend
    sizes : CheckSizes, optional
    tf32 : bool
        Matrix products may round their factors to 10 bits: what they make is held to that.
    """
    scene = Scene(backend, sizes or CheckSizes())
    found = [*scene.images(), *scene.search(), *scene.poses(), *scene.volumes()]
    if not tf32:
        return found
    loose = [c.name.split("[")[0] in _PRODUCTS for c in found]
    return [replace(c, tolerance=_TF32_TOLERANCE) if relaxed else c for c, relaxed in zip(found, loose, strict=True)]


def check_against_closed_form(backend: Backend) -> list[Comparison]:
    """Return comparisons with what is known without any code of ours: a Gaussian's transform, at any pose.

    The log-likelihood ratio of a noise-free image at its own pose is sum |I|^2 / sigma2.
    """
    box, k_max, width, n = 48, 12, 2.5, 8
    rng = np.random.default_rng(0)
    centre = np.array([5.0, -3.0, 2.0])  # x, y, z
    axis = np.arange(box) - box // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    distance2 = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    volume = np.exp(-distance2 / (2 * width**2)).astype(np.float32)
    points = half_plane_points(k_max)
    rotation, shift = random_rotations(rng, n), rng.uniform(-3, 3, (n, 2))
    k = np.stack([points.kx, points.ky], axis=-1).astype(np.float64)
    decay = np.exp(-2 * np.pi**2 * width**2 * (k**2).sum(axis=1) / box**2) * (2 * np.pi * width**2) ** 1.5
    place = centre @ rotation[:, :, :2] + shift  # where the blob's projection lies in each image
    image = decay * np.exp(-2j * np.pi * (place @ k.T) / box)
    noise = np.ones((n, k_max + 1), np.float32)
    ctf = np.ones(image.shape, np.float32)
    to_device = backend.to_device
    real, imaginary = (to_device(np.ascontiguousarray(part, np.float32)) for part in (image.real, image.imag))
    weighed = backend.weigh(real, imaginary, to_device(ctf), points.shell, to_device(noise))
    cube = backend.cube(to_device(volume), _PAD, _PAD * k_max + 2)
    found = backend.score(
        cube, _PAD, points, box, weighed, to_device(rotation[:, None].astype(np.float32)),
        to_device(shift[:, None].astype(np.float32)),
    )  # fmt: skip
    expected = (np.abs(image) ** 2).sum(axis=1)[:, None]
    # trilinear interpolation on a twice padded grid is good to a percent
    return [Comparison("score of a Gaussian, closed form", _difference(backend.to_host(found), expected), 0.02)]


def _difference(found: Array, expected: Array) -> float:
    largest = float(np.abs(expected).max(initial=0.0))
    difference = float(np.abs(found.astype(np.complex128) - expected).max(initial=0.0))
    return difference / largest if largest > 0 else difference


def _share_beyond(found: Array, expected: Array, relative: float) -> float:
    """Return the share of rows in which anything differs by more than ``relative`` of the largest value."""
    n = found.shape[0] * found.shape[1]
    apart = np.abs(found - expected).reshape(n, -1).max(axis=1) > relative * np.abs(expected).max()
    return float(np.mean(apart | ~np.isfinite(found).reshape(n, -1).all(axis=1)))


class Scene:
    """The random data, and the two backends that work on it."""

    def __init__(self, backend: Backend, sizes: CheckSizes) -> None:
        self.sizes = sizes
        self.other = backend
        self.cpu = CpuBackend(1)
        self.rng = np.random.default_rng(sizes.seed)
        s, rng = sizes, self.rng
        self.points = half_plane_points(s.k_max)
        self.grid = polar_grid(s.rings, 0.4, s.in_plane_angles)
        self.cells = pose_cells(s.direction_order, s.in_plane_angles, 2.0, 1.0)
        self.radius = _PAD * max(s.k_max, s.rings) + 2
        axis = (np.arange(s.box) - s.box // 2) / (0.2 * s.box)
        blob = np.exp(-(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2))
        self.volume = (blob * rng.normal(1.0, 0.5, (s.box,) * 3)).astype(np.float32)
        self.pictures = rng.normal(0, 1, (s.images, s.box, s.box)).astype(np.float32)
        self.inverse_noise = rng.uniform(0.5, 2, (s.images, s.box // 2 + 1)).astype(np.float32) / s.box**2
        self.coefficients = (rng.uniform(-1, 1, (s.images, 5)) * _CTF_SPREAD).astype(np.float32)
        self.step = np.full(s.images, 1 / (s.box * 3.0), np.float32)
        self.rotation = random_rotations(rng, s.images * s.samples).astype(np.float32)
        self.rotation = self.rotation.reshape(s.images, s.samples, 3, 3)
        self.shift = rng.uniform(-3, 3, (s.images, s.samples, 2)).astype(np.float32)
        self.cube = self.cpu.cube(self.volume, _PAD, self.radius)
        self.transforms = self.cpu.image_transforms(self.pictures, np.ones((s.box, s.box), np.float32))
        self.half_plane = self.cpu.half_plane(self.transforms, self.points)
        self.ctf = self.cpu.ctf(self.coefficients, self.points.kx, self.points.ky, self.step)
        self.weighed = self.cpu.weigh(*self.half_plane, self.ctf, self.points.shell, self.inverse_noise)

    def _both(self, method: str, *args: Any) -> tuple[Any, Any]:
        """Call a method on both backends; what `to_device` can take is moved for the other."""
        expected = getattr(self.cpu, method)(*args)
        found = getattr(self.other, method)(*(self._move(a) for a in args))
        return found, expected

    def _move(self, value: Any) -> Any:
        if isinstance(value, tuple) and all(isinstance(v, np.ndarray) for v in value):
            return tuple(self.other.to_device(v) for v in value)
        return self.other.to_device(value) if isinstance(value, np.ndarray) and value.ndim else value

    def _host(self, value: Array) -> NDArray[Any]:
        return self.other.to_host(value)

    def _compare(self, tolerance: float, method: str, *args: Any) -> Iterator[Comparison]:
        found, expected = self._both(method, *args)
        if not isinstance(expected, tuple):
            found, expected = (found,), (expected,)
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            name = method if len(expected) == 1 else f"{method}[{number}]"
            yield Comparison(name, _difference(self._host(one), other), tolerance)

    def images(self) -> Iterator[Comparison]:
        """Check what is done to images."""
        s, grid = self.sizes, self.grid
        mask = self.rng.uniform(0, 1, (s.box, s.box)).astype(np.float32)
        yield from self._compare(1e-5, "image_transforms", self.pictures, mask)
        yield from self._compare(0.0, "half_plane", self.transforms, self.points)
        yield from self._compare(1e-5, "shell_power", self.transforms, s.box // 2 + 1)
        for name, kx, ky in (("points", self.points.kx, self.points.ky), ("rings", grid.kx, grid.ky)):
            found = self.other.ctf(self._move(self.coefficients), kx, ky, self._move(self.step))
            expected = self.cpu.ctf(self.coefficients, kx, ky, self.step)
            yield Comparison(f"ctf at {name}", _difference(self._host(found), expected), 1e-3)
        small = min(s.box, 2 * (s.rings + 4))
        yield from self._compare(1e-5, "rings", self.transforms, polar_from_image_matrix(grid, small), small)
        real, imaginary, ctf, noise = map(self._move, (*self.half_plane, self.ctf, self.inverse_noise))
        found = self.other.weigh(real, imaginary, ctf, self.points.shell, noise)
        yield Comparison("weigh", _difference(self._host(found), self.weighed), 1e-6)

    def search(self) -> Iterator[Comparison]:
        """Check the global search, from slices to draws."""
        s, grid, cells, rng = self.sizes, self.grid, self.cells, self.rng
        n, n_shifts = s.images, len(cells.shifts)
        directions = cells.directions[: cells.n_pairs]
        yield from self._compare(1e-5, "slice_coefficients", self.cube, _PAD, grid, directions)
        slices, ring_power = self.cpu.slice_coefficients(self.cube, _PAD, grid, directions)
        rings = rng.normal(0, 1, (n, 2, grid.kx.size)).astype(np.float32)
        ctf = rng.uniform(-1, 1, (n, grid.kx.size)).astype(np.float32)
        gain = rng.uniform(0, 1, (n, grid.n_rings)).astype(np.float32)
        images, ctf2 = self.cpu.image_coefficients(rings, ctf, gain, grid, cells.shifts, s.box)
        moved = self.other.image_coefficients(
            self._move(rings), self._move(ctf), self._move(gain), grid, cells.shifts, s.box
        )
        for number, (one, other) in enumerate(zip(moved, (images, ctf2), strict=True)):
            yield Comparison(f"image_coefficients[{number}]", _difference(self._host(one), other), 1e-5)
        yield from self._compare(1e-5, "correlate", images, slices, grid)
        planes = self.cpu.correlate(images, slices, grid)
        planes *= np.float32(12.0 / np.abs(planes).max())  # likelihoods as peaked as real ones
        power_term = np.abs(ctf2 @ ring_power.T)
        power_term *= np.float32(2.0 / power_term.max())
        yield from self._compare(1e-5, "best_cell", planes, power_term, n_shifts)
        best = self.cpu.best_cell(planes, power_term, n_shifts)
        yield from self._compare(1e-4, "cell_masses", planes, power_term, n_shifts, best, 1.7)
        histogram, expected = self._both("cell_histogram", planes, power_term, n_shifts, best)
        moved = float(np.abs(self._host(histogram) - expected).sum()) / 2 / expected.sum()
        yield Comparison("cell_histogram (share of cells)", moved, 2e-3)
        yield from self._draws(planes, power_term, best)

    def _draws(self, planes: Array, power_term: Array, best: Array) -> Iterator[Comparison]:
        s, cells, rng = self.sizes, self.cells, self.rng
        masses = self.cpu.cell_masses(planes, power_term, len(cells.shifts), best, 1.7)
        random = (
            rng.random(s.images, np.float32),
            rng.random((s.images, s.samples, 4), np.float32),
            rng.random((s.images, s.samples, 4), np.float32),
        )
        psi = self.grid.psi().astype(np.float32)
        defensive = max(1, s.samples // 8)
        found, expected = self._both("draw_poses", planes, power_term, best, masses, 1.7, defensive, cells, psi, random)
        # a target that falls between two cells by rounding only may go to either
        for name, one, other in zip(("rotation", "shift", "density"), found, expected, strict=True):
            share = _share_beyond(self._host(one), other, 1e-3)
            yield Comparison(f"draw_poses {name} (share of draws)", share, max(0.01, 2.5 / (s.images * s.samples)))

    def poses(self) -> Iterator[Comparison]:
        """Check scores, weights, proposals, residuals and insertion."""
        s, rng, points = self.sizes, self.rng, self.points
        n, k = s.images, s.samples
        scored = (self.cube, _PAD, points, s.box, self.weighed, self.rotation, self.shift)
        yield from self._compare(2e-3 if _packs(self.other) else 2e-5, "score", *scored)
        score = rng.normal(0, 3, (n, k)).astype(np.float32)
        density = rng.uniform(0.5, 20, (n, k)).astype(np.float32)
        yield from self._compare(1e-5, "normalise", score, density, 1.3)
        weight, _ = self.cpu.normalise(score, density, 1.3)
        # old samples that lie close enough for their boxes to overlap
        near = self.rotation[:, :1] @ self._small_turns(n, k, 0.05)
        start, uniform = rng.random(n, np.float32), rng.random((n, k, 5), np.float32)
        proposed = (near, self.shift * np.float32(0.1), weight, 0.04, 0.3, 20.0, start, uniform)
        found, expected = self._both("propose", *proposed)
        for name, one, other in zip(("rotation", "shift", "density"), found, expected, strict=True):
            share = _share_beyond(self._host(one), other, 1e-4)
            yield Comparison(f"propose {name} (share of draws)", share, max(0.01, 2.5 / (n * k)))
        observed = (*self.half_plane, self.ctf)
        one_pose = (np.ascontiguousarray(self.rotation[:, 0]), np.ascontiguousarray(self.shift[:, 0]))
        residual = (self.cube, _PAD, points, s.box, s.k_max + 1, observed, *one_pose)
        yield from self._compare(1e-5, "residual", *residual)
        yield from self._insertion(weight)

    def _small_turns(self, n: int, k: int, angle: float) -> NDArray[np.float32]:
        x, y, z = self.rng.uniform(-angle, angle, (3, n, k))
        zero = np.zeros_like(x)
        skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(n, k, 3, 3)
        return np.asarray(np.eye(3) + skew + skew @ skew / 2, np.float32)

    def accumulator(self, backend: Backend, weight: Array) -> Array:
        """Return what a backend's insertion makes of the images."""
        grid = backend.zeros((2 * self.radius + 1, 2 * self.radius + 1, self.radius + 1, 4))
        weighed, rotation, shift, moved = map(backend.to_device, (self.weighed, self.rotation, self.shift, weight))
        backend.insert(grid, _PAD, self.points, self.sizes.box, weighed, rotation, shift, moved, _MINIMUM_WEIGHT, _GAIN)
        return grid

    def _insertion(self, weight: Array) -> Iterator[Comparison]:
        found = self._host(self.accumulator(self.other, weight))
        expected = self.accumulator(self.cpu, weight)
        for name, lanes in (("numerator", slice(0, 2)), ("weight", slice(2, 3))):
            yield Comparison(f"insert {name}", _difference(found[..., lanes], expected[..., lanes]), 5e-5)
        found, expected = self._host(self._normal(self.other, weight)), self._normal(self.cpu, weight)
        yield Comparison("normal", _difference(found, expected), 5e-5)

    def _normal(self, backend: Backend, weight: Array) -> Array:
        """Return what a backend's normal operator makes of the cube."""
        grid = backend.zeros((*self.cube.shape[:3], 4))
        cube, power, rotation, moved = map(backend.to_device, (self.cube, self.weighed[2], self.rotation, weight))
        backend.normal(cube, grid, _PAD, self.points, power, rotation, moved, _MINIMUM_WEIGHT, _GAIN)
        return grid

    def volumes(self) -> Iterator[Comparison]:
        """Check what is done to volumes and accumulators."""
        s, rng = self.sizes, self.rng
        weight = np.full((s.images, s.samples), 1 / s.samples, np.float32)
        gathered = self.accumulator(self.cpu, weight)
        half = (gathered, self.accumulator(self.cpu, weight[:, ::-1] * np.float32(0.5)))
        yield from self._compare(1e-6, "shell_weights", gathered, _PAD, s.k_max + 2)
        regulariser = rng.uniform(0.1, 1.0, s.k_max + 2) * gathered[..., 2].mean()
        found = self.other.solve((self._move(half[0]), self._move(half[1])), _PAD, s.k_max, regulariser, 0.5, s.box)
        expected = self.cpu.solve(half, _PAD, s.k_max, regulariser, 0.5, s.box)
        yield Comparison("solve", _difference(self._host(found), expected), 1e-5)
        yield from self._compare(1e-5, "cube", self.volume, _PAD, self.radius)
        noisy = self.volume + rng.normal(0, 0.05, self.volume.shape).astype(np.float32)
        yield from self._compare(1e-4, "shell_correlation", self.volume, noisy, s.box // 2)
        for non_negative in (True, False):
            found = self.other.shrink(self._move(noisy), 0.1, non_negative=non_negative)
            expected = self.cpu.shrink(noisy, 0.1, non_negative=non_negative)
            yield Comparison("shrink", _difference(self._host(found), expected), 1e-6)
        yield from self._compare(1e-5, "rfftn", self.volume)
        yield from self._compare(1e-5, "irfftn", self.cpu.rfftn(self.volume), s.box)


def _packs(backend: Backend) -> bool:
    """Return whether a backend scores against half-precision cubes."""
    return getattr(backend, "cube_precision", "single") == "half"
