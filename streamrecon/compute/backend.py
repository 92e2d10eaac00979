"""What the engine asks of a device. The engine's code is the same on every backend.

Arrays are the backend's own. The engine passes them on, slices them, does arithmetic between them and with scalars,
and uses the methods that NumPy's and CuPy's arrays share; NumPy functions it calls only on what `to_host` gave. Arrays
come to the device by `to_device` and leave it by `to_host`, nowhere else; tables of a session's geometry
(`HalfPlanePoints`, `PolarGrid`, `PoseCells`) are host arrays that a backend keeps copies of. Random numbers are drawn
on the host, so that runs agree across backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.fourier.polar import PolarGrid
from streamrecon.geometry.quadrature import PoseCells

Array = NDArray[Any]
_Result = TypeVar("_Result")


class Backend(Protocol):
    """Kernels and the few library calls (GEMM, FFT) the engine is made of."""

    name: str
    threads: int
    chunk_images: int

    def run(self, function: Callable[[int, int], _Result], n: int, *, few: bool = False) -> list[_Result]:
        """Apply ``function(start, stop)`` to pieces of ``range(n)``, in parallel where the device can.

        ``few``: as few pieces as keep the device busy, for work that reads a large table once a piece.
        """

    def run_each(self, functions: Iterable[Callable[[], _Result]]) -> list[_Result]:
        """Call independent functions, in parallel where the device can."""

    def reserve(self, bytes_per_image: int) -> None:
        """Take note of the memory one image of a piece takes: what pieces `run` makes may follow from it."""

    def memory_bytes(self) -> tuple[int, int] | None:
        """Return the device's memory in use, whoever uses it, and all it has; None where that is the host's."""

    # arrays
    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join arrays along an axis."""

    def pick(self, array: Array, index: Array) -> Array:
        """Return ``array[i, index[i]]`` for every row i."""

    # images
    def image_transforms(self, images: Array, mask: Array) -> Array:
        """Return rfft2 of masked images, (n, box, box // 2 + 1) complex64."""

    def half_plane(self, transforms: Array, points: HalfPlanePoints) -> tuple[Array, Array]:
        """Return real and imaginary parts at the points, each (n, n_points)."""

    def shell_power(self, transforms: Array, n_shells: int) -> Array:
        """Return the mean of |F|^2 a shell, (n, n_shells)."""

    def ctf(self, coefficients: Array, kx: Array, ky: Array, frequency_step: Array) -> Array:
        """Return the CTF at points given in Fourier pixels, (n, n_points)."""

    def rings(self, transforms: Array, matrix: Array, small_box: int) -> Array:
        """Return the transforms on polar rings, (n, re|im, n_rings * n_half)."""

    def weigh(self, real: Array, imaginary: Array, ctf: Array, shell: Array, inverse_noise: Array) -> Array:
        """Return (3, n, n_points): cross re, cross im and power weight of the likelihood."""

    # global search
    def slice_coefficients(self, cube: Array, pad: int, grid: PolarGrid, directions: Array) -> tuple[Array, Array]:
        """Return angular coefficients (n_q, 2, R, D) of slices and their ring powers (D, R)."""

    def image_coefficients(
        self, rings: Array, ctf: Array, ring_gain: Array, grid: PolarGrid, shifts: Array, box_size: int
    ) -> tuple[Array, Array]:
        """Return angular coefficients (n_q, 2, n * S, R) of shifted, weighed images, and C^2 ring sums."""

    def correlate(self, image_coefficients: Array, slice_coefficients: Array, grid: PolarGrid) -> Array:
        """Return the four correlation planes (4, n_psi // 2, n * S * D)."""

    def best_cell(self, planes: Array, power_term: Array, n_shifts: int) -> Array:
        """Return each image's highest log-likelihood ratio, (n,)."""

    def cell_masses(
        self, planes: Array, power_term: Array, n_shifts: int, best: Array, temperature: float
    ) -> tuple[Array, Array]:
        """Return the posterior's mass by (shift, direction), and total, ESS and entropy, (n, 3)."""

    def cell_histogram(self, planes: Array, power_term: Array, n_shifts: int, best: Array) -> Array:
        """Return how far the cells lie below the best, (n, bins)."""

    def draw_poses(
        self,
        planes: Array,
        power_term: Array,
        best: Array,
        masses: tuple[Array, Array],
        temperature: float,
        defensive: int,
        cells: PoseCells,
        psi: Array,
        random: tuple[Array, Array, Array],
    ) -> tuple[Array, Array, Array]:
        """Draw poses from the cells: rotation (n, K, 3, 3), shift (n, K, 2), density (n, K)."""

    # poses
    def score(
        self, cube: Array, pad: int, points: HalfPlanePoints, box_size: int, weighed: Array, rotation: Array,
        shift: Array,
    ) -> Array:  # fmt: skip
        """Return the log-likelihood ratio of each pose, (n, K)."""

    def normalise(self, log_likelihood: Array, density: Array, temperature: float) -> tuple[Array, Array]:
        """Return importance weights (n, K) and (log mean weight, ESS, best sample), (n, 3)."""

    def propose(
        self, rotation: Array, shift: Array, weight: Array, rotation_half_width: float,
        shift_half_width: float, shift_area: float, start: Array, uniform: Array,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """Draw poses around weighted ones: rotation, shift, density."""

    def residual(
        self, cube: Array, pad: int, points: HalfPlanePoints, box_size: int, n_shells: int,
        observed: tuple[Array, Array, Array], rotation: Array, shift: Array,
    ) -> Array:  # fmt: skip
        """Return the mean residual power by shell at one pose an image, (n, n_shells)."""

    def insert(
        self, accumulator: Array, pad: int, points: HalfPlanePoints, box_size: int, weighed: Array,
        rotation: Array, shift: Array, weight: Array, minimum_weight: float, gain: float,
    ) -> int | None:  # fmt: skip
        """Add weighted images into an accumulator (z, y, x, 4); return the number of slices, or None if unknown."""

    def normal(
        self, cube: Array, accumulator: Array, pad: int, points: HalfPlanePoints, power: Array, rotation: Array,
        weight: Array, minimum_weight: float, gain: float,
    ) -> None:  # fmt: skip
        """Add what insertion makes of a cube's own slices to the numerator of an accumulator of the same size.

        The normal operator of the likelihood: slices, times ``power`` (n, n_points), the last plane of `weigh`, and
        inserted as `insert` does, for all poses of at least ``minimum_weight``. Its weights stay as they are.
        """

    # volumes
    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return a float32 array of zeros."""

    def shell_weights(self, accumulator: Array, pad: int, n_shells: int) -> Array:
        """Return the mean weight of a grid point by shell, (n_shells,) float64 on the host."""

    def solve(
        self, accumulators: tuple[Array, Array], pad: int, k_max: int, regulariser: Array, scale: float, map_box: int
    ) -> Array:  # fmt: skip
        """Return the real-space map (map_box,)*3 of (weight + regulariser) V = numerator."""

    def cube(self, volume: Array, pad: int, radius: int) -> Array:
        """Return the half-space Fourier cube (z, y, x, 2) of a real-space map, ready for extraction."""

    def shell_correlation(self, volume_1: Array, volume_2: Array, n_shells: int) -> NDArray[np.float32]:
        """Return the Fourier shell correlation of two real-space maps, (n_shells,) on the host."""

    def shrink(self, volume: Array, threshold: float, *, non_negative: bool) -> Array:
        """Return a map drawn towards zero by a threshold; what is negative becomes zero, or is drawn up likewise."""

    def rfftn(self, volume: Array) -> Array:
        """Return the forward transform of a real-space map."""

    def irfftn(self, transform: Array, box_size: int) -> Array:
        """Return the real-space map of a transform."""

    def to_host(self, array: Array) -> Array:
        """Return the array as NumPy; a NumPy array as it is."""

    def to_device(self, array: Array) -> Array:
        """Return a NumPy array as the backend's; an array of the backend as it is."""
