"""The CPU backend: NumPy GEMM, SciPy FFT, Numba kernels, threads over pieces of the batch.

Every thread runs single-threaded BLAS on its own piece: at these sizes that beats threads inside BLAS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from streamrecon.compute.backend import Array
from streamrecon.compute.cpu_kernels import cells as cell_kernels
from streamrecon.compute.cpu_kernels import grids, images, sampling, slices
from streamrecon.compute.profile import trilinear_profile
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.fourier.polar import PolarGrid
from streamrecon.fourier.shells import fourier_shell_correlation, shell_index_rfft
from streamrecon.geometry.quadrature import PoseCells

_Result = TypeVar("_Result")
_F32 = np.float32


def _divide_by_profile(volume: Array, pad: int) -> Array:
    profile = trilinear_profile(len(volume), pad)
    return np.asarray(volume / (profile[:, None, None] * profile[None, :, None] * profile[None, None, :]), _F32)


def _middle_of_inverse(transform: Array, size: int) -> Array:
    """Return the middle (size,)*3 of the inverse of a half-space transform (m, m, m/2 + 1), which is overwritten.

    What lies outside the middle along an axis is dropped before the next axis is transformed: 7/12 of the work at twice
    the size.
    """
    m = len(transform)
    middle = slice((m - size) // 2, (m - size) // 2 + size)
    planes = scipy.fft.ifft(transform, axis=0, overwrite_x=True)[middle]
    rows = scipy.fft.ifft(planes, axis=1)[:, middle]
    return np.asarray(scipy.fft.irfft(rows, n=m, axis=2)[..., middle])


def _transform_of_padded(volume: Array, m: int, workers: int) -> Array:
    """Return the half-space transform of a volume in the middle of (m, m, m) zeros; only what holds any is transformed.

    The axes come in the order in which rfftn takes them.
    """
    size = len(volume)
    middle = slice((m - size) // 2, (m - size) // 2 + size)
    padded = np.zeros((size, size, m), _F32)
    padded[..., middle] = volume
    rows = scipy.fft.rfft(padded, axis=2, workers=workers)
    wide = np.zeros((m, size, m // 2 + 1), np.complex64)
    wide[middle] = rows
    columns = scipy.fft.fft(wide, axis=0, overwrite_x=True, workers=workers)
    full = np.zeros((m, m, m // 2 + 1), np.complex64)
    full[:, middle] = columns
    return np.asarray(scipy.fft.fft(full, axis=1, overwrite_x=True, workers=workers))


class CpuBackend:
    """The engine's kernels on the host.

    Parameters
    ----------
    threads : int
        0 means one for every core this process may use.
    """

    name = "cpu"
    chunk_images = 10
    few_images = 25

    def __init__(self, threads: int = 0) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="compute")
        self._blas_limit = threadpool_limits(1, user_api="blas")

    def run(self, function: Callable[[int, int], _Result], n: int, *, few: bool = False) -> list[_Result]:
        """Apply ``function(start, stop)`` to chunks of at most ``chunk_images``; ``few``: of ``few_images``.

        The chunks are the same for any number of threads: how BLAS rounds a row may depend on how many rows there are
        (OpenBLAS on Haswell and Zen).
        """
        pieces = max(1, -(-n // (self.few_images if few else self.chunk_images)))
        edges = np.linspace(0, n, pieces + 1).astype(int)
        jobs = [self._pool.submit(function, int(a), int(b)) for a, b in pairwise(edges)]
        return [job.result() for job in jobs]

    def run_each(self, functions: Iterable[Callable[[], _Result]]) -> list[_Result]:
        """Call independent functions on the pool."""
        jobs = [self._pool.submit(function) for function in functions]
        return [job.result() for job in jobs]

    def reserve(self, bytes_per_image: int) -> None:
        """Pieces stay as they are: small enough for the caches."""

    def memory_bytes(self) -> None:
        """There is no device with memory of its own."""
        return

    def concatenate(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join arrays along an axis."""
        return np.concatenate(arrays, axis=axis)

    def pick(self, array: Array, index: Array) -> Array:
        """Return ``array[i, index[i]]`` for every row i."""
        return np.asarray(array[np.arange(len(index)), index])

    def image_transforms(self, images: Array, mask: Array) -> Array:
        """Return rfft2 of masked images."""
        return np.asarray(scipy.fft.rfft2(np.asarray(images * mask, _F32)))

    def half_plane(self, transforms: Array, points: HalfPlanePoints) -> tuple[Array, Array]:
        """Return real and imaginary parts at the points."""
        real, imaginary = np.empty((2, len(transforms), len(points)), _F32)
        images.gather_half_plane(transforms, points.runs, real, imaginary)
        return real, imaginary

    def shell_power(self, transforms: Array, n_shells: int) -> Array:
        """Return the mean of |F|^2 a shell."""
        power = np.empty((len(transforms), n_shells), _F32)
        images.shell_power(transforms, n_shells, power)
        return power

    def ctf(self, coefficients: Array, kx: Array, ky: Array, frequency_step: Array) -> Array:
        """Return the CTF at points given in Fourier pixels."""
        out = np.empty((len(coefficients), kx.size), _F32)
        images.ctf_at_points(coefficients, kx.ravel(), ky.ravel(), frequency_step, out)
        return out

    def rings(self, transforms: Array, matrix: Array, small_box: int) -> Array:
        """Return the transforms on polar rings: crop, inverse FFT, one GEMM."""
        half = small_box // 2
        small = np.zeros((len(transforms), small_box, half + 1), np.complex64)
        small[:, :half, :half] = transforms[:, :half, :half]
        small[:, -half + 1 :, :half] = transforms[:, -half + 1 :, :half]
        # the inverse FFT divides by small_box**2; the matrix sums over that many pixels
        image = scipy.fft.irfft2(small, s=(small_box, small_box), norm="backward")
        flat = np.ascontiguousarray(image, _F32).reshape(len(transforms), -1)
        return np.asarray(flat @ matrix).reshape(len(transforms), 2, -1)

    def weigh(self, real: Array, imaginary: Array, ctf: Array, shell: Array, inverse_noise: Array) -> Array:
        """Return cross re, cross im and power weight of the likelihood."""
        out = np.empty((3, *real.shape), _F32)
        images.weight_half_plane(real, imaginary, ctf, shell, inverse_noise, out[0], out[1], out[2])
        return out

    def slice_coefficients(self, cube: Array, pad: int, grid: PolarGrid, directions: Array) -> tuple[Array, Array]:
        """Return angular coefficients of the direction pairs' slices and their ring powers."""
        n = len(directions)
        real, imaginary = np.empty((2, n, grid.kx.size), _F32)
        slices.extract_slices(cube, pad, grid.kx.ravel(), grid.ky.ravel(), directions, real, imaginary)
        shape = (n, grid.n_rings, grid.n_half)
        power = (real**2 + imaginary**2).reshape(shape).mean(axis=2)
        coefficients = self._angular(real.reshape(-1, grid.n_half), imaginary.reshape(-1, grid.n_half), grid)
        by_direction = coefficients.reshape(len(grid.q), 2, n, grid.n_rings)
        return np.ascontiguousarray(by_direction.transpose(0, 1, 3, 2)), power

    @staticmethod
    def _angular(real: Array, imaginary: Array, grid: PolarGrid) -> Array:
        """Angular coefficients (n_q, 2, rows) of rings (rows, n_half)."""
        rows = len(real)
        out = np.empty((len(grid.q), 2, rows), _F32)
        n_even = len(grid.even_dft)
        flat = out.reshape(-1, rows)
        np.matmul(grid.even_dft, real.T, out=flat[:n_even])
        np.matmul(grid.odd_dft, imaginary.T, out=flat[n_even:])
        return out

    def image_coefficients(
        self, rings: Array, ctf: Array, ring_gain: Array, grid: PolarGrid, shifts: Array, box_size: int
    ) -> tuple[Array, Array]:
        """Return angular coefficients of shifted, weighed images, and their C^2 ring sums."""
        n, s = len(rings), len(shifts)
        shape = (n, grid.n_rings, grid.n_half)
        moved_re, moved_im = np.empty((2, n, s, grid.n_rings, grid.n_half), _F32)
        ctf2 = np.empty((n, grid.n_rings), _F32)
        split = rings.reshape(n, 2, grid.n_rings, grid.n_half)
        images.shift_rings(
            split[:, 0], split[:, 1], ctf.reshape(shape), ring_gain, grid.kx, grid.ky, shifts, box_size,
            moved_re, moved_im, ctf2,
        )  # fmt: skip
        coefficients = self._angular(moved_re.reshape(-1, grid.n_half), moved_im.reshape(-1, grid.n_half), grid)
        return coefficients.reshape(len(grid.q), 2, n * s, grid.n_rings), ctf2

    def correlate(self, image_coefficients: Array, slice_coefficients: Array, grid: PolarGrid) -> Array:
        """Return the four correlation planes: real GEMMs over rings, then over angular frequency."""
        rows, directions = image_coefficients.shape[2], slice_coefficients.shape[3]
        # (n_q, image re|im, slice re|im, n * S, D): every real product once, shared by both antipodes
        products = np.matmul(image_coefficients[:, :, None], slice_coefficients[:, None, :])
        flat = products.reshape(len(grid.q), 4, rows * directions)
        planes = np.empty((4, len(grid.cosine), rows * directions), _F32)
        np.matmul(grid.cosine, flat[:, 0], out=planes[0])  # IrPr
        np.matmul(grid.cosine, flat[:, 3], out=planes[1])  # IiPi
        np.matmul(grid.sine, flat[:, 1], out=planes[2])  # IrPi
        np.matmul(grid.sine, flat[:, 2], out=planes[3])  # IiPr
        return planes

    def best_cell(self, planes: Array, power_term: Array, n_shifts: int) -> Array:
        """Return each image's highest log-likelihood ratio."""
        best = np.empty(len(power_term), _F32)
        cell_kernels.best_cell(planes, power_term, n_shifts, best)
        return best

    def cell_masses(
        self, planes: Array, power_term: Array, n_shifts: int, best: Array, temperature: float
    ) -> tuple[Array, Array]:
        """Return the posterior's mass by (shift, direction), and total, ESS and entropy."""
        n, d = power_term.shape
        mass = np.empty((n, n_shifts * d), _F32)
        summary = np.empty((n, 3), np.float64)
        cell_kernels.cell_masses(planes, power_term, n_shifts, best, 1 / temperature, mass, summary)
        return mass, summary

    def cell_histogram(self, planes: Array, power_term: Array, n_shifts: int, best: Array) -> Array:
        """Return how far the cells lie below the best."""
        histogram = np.empty((len(power_term), cell_kernels.HISTOGRAM_BINS), np.int32)
        cell_kernels.cell_histogram(planes, power_term, n_shifts, best, histogram)
        return histogram

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
        """Draw poses from the cells."""
        start, pick, place = random
        n, k = pick.shape[:2]
        direction, psi_index, shift_index = np.empty((3, n, k), np.int32)
        density = np.empty((n, k), _F32)
        mass, summary = masses
        cell_kernels.draw_cells(
            planes, power_term, len(cells.shifts), best, 1 / temperature, mass, summary, defensive, start, pick,
            direction, psi_index, shift_index, density,
        )  # fmt: skip
        rotation, shift = np.empty((n, k, 3, 3), _F32), np.empty((n, k, 2), _F32)
        cell_kernels.poses_in_cells(
            direction, psi_index, shift_index, cells.children, psi, _F32(2 * np.pi / cells.n_psi), cells.shifts,
            _F32(cells.shift_step), place, rotation, shift,
        )  # fmt: skip
        return rotation, shift, density

    def score(
        self, cube: Array, pad: int, points: HalfPlanePoints, box_size: int, weighed: Array, rotation: Array,
        shift: Array,
    ) -> Array:  # fmt: skip
        """Return the log-likelihood ratio of each pose."""
        out = np.empty(rotation.shape[:2], _F32)
        slices.score_poses(
            cube, pad, points.kx, points.ky, box_size, weighed[0], weighed[1], weighed[2], rotation, shift, out,
        )  # fmt: skip
        return out

    def normalise(self, log_likelihood: Array, density: Array, temperature: float) -> tuple[Array, Array]:
        """Return importance weights and (log mean weight, ESS, best sample)."""
        weight = np.empty_like(log_likelihood)
        summary = np.empty((len(weight), 3), _F32)
        sampling.normalise_weights(log_likelihood, density, 1 / temperature, weight, summary)
        return weight, summary

    def propose(
        self, rotation: Array, shift: Array, weight: Array, rotation_half_width: float,
        shift_half_width: float, shift_area: float, start: Array, uniform: Array,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """Draw poses around weighted ones."""
        n, k = uniform.shape[:2]
        new_rotation, new_shift = np.empty((n, k, 3, 3), _F32), np.empty((n, k, 2), _F32)
        density = np.empty((n, k), _F32)
        sampling.propose_around(
            rotation, shift, weight, start, uniform, _F32(rotation_half_width), _F32(shift_half_width),
            _F32(shift_area), new_rotation, new_shift, density,
        )  # fmt: skip
        return new_rotation, new_shift, density

    def residual(
        self, cube: Array, pad: int, points: HalfPlanePoints, box_size: int, n_shells: int,
        observed: tuple[Array, Array, Array], rotation: Array, shift: Array,
    ) -> Array:  # fmt: skip
        """Return the mean residual power by shell at one pose an image."""
        out = np.empty((len(rotation), n_shells), _F32)
        real, imaginary, ctf = observed
        slices.residual_power(
            cube, pad, points.kx, points.ky, box_size, points.shell, real, imaginary,
            ctf, rotation, shift, out,
        )  # fmt: skip
        return out

    def insert(
        self, accumulator: Array, pad: int, points: HalfPlanePoints, box_size: int, weighed: Array,
        rotation: Array, shift: Array, weight: Array, minimum_weight: float, gain: float,
    ) -> int:  # fmt: skip
        """Add weighted images into an accumulator."""
        return int(
            slices.insert_slices(
                accumulator, pad, points.kx, points.ky, box_size, weighed[0], weighed[1], weighed[2],
                rotation, shift, weight, minimum_weight, gain,
            )
        )  # fmt: skip

    def normal(
        self, cube: Array, accumulator: Array, pad: int, points: HalfPlanePoints, power: Array, rotation: Array,
        weight: Array, minimum_weight: float, gain: float,
    ) -> None:  # fmt: skip
        """Add what insertion makes of a cube's own slices to an accumulator's numerator."""
        slices.normal_slices(
            cube, accumulator, pad, points.kx, points.ky, power, rotation, weight, minimum_weight, gain
        )

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return a float32 array of zeros."""
        return np.zeros(shape, _F32)

    def shell_weights(self, accumulator: Array, pad: int, n_shells: int) -> Array:
        """Return the mean weight of a grid point by shell."""
        total, count = np.empty((2, n_shells), np.float64)
        grids.shell_weights(accumulator, pad, total, count)
        return total / np.maximum(count, 1)

    def solve(
        self, accumulators: tuple[Array, Array], pad: int, k_max: int, regulariser: Array, scale: float, map_box: int
    ) -> Array:  # fmt: skip
        """Return the real-space map of (weight + regulariser) V = numerator."""
        m = pad * map_box
        transform = np.empty((m, m, m // 2 + 1), np.complex64)
        regulariser32 = np.asarray(regulariser, _F32)
        grids.wiener_to_rfft(*accumulators, pad, k_max, regulariser32, _F32(scale), transform)
        return _divide_by_profile(_middle_of_inverse(transform, map_box), pad)

    def cube(self, volume: Array, pad: int, radius: int) -> Array:
        """Return the half-space Fourier cube of a real-space map."""
        transform = _transform_of_padded(_divide_by_profile(volume, pad), pad * len(volume), self.threads)
        cube = np.empty((2 * radius + 1, 2 * radius + 1, radius + 1, 2), _F32)
        grids.rfft_to_cube(transform, cube)
        return cube

    def shell_correlation(self, volume_1: Array, volume_2: Array, n_shells: int) -> NDArray[np.float32]:
        """Return the Fourier shell correlation of two real-space maps."""
        transforms = self.run_each([partial(self.rfftn, volume) for volume in (volume_1, volume_2)])
        return fourier_shell_correlation(transforms[0], transforms[1], shell_index_rfft(len(volume_1)), n_shells)

    def shrink(self, volume: Array, threshold: float, *, non_negative: bool) -> Array:
        """Return a map drawn towards zero by a threshold."""
        least = _F32(threshold)
        if non_negative:
            return np.asarray(np.maximum(volume - least, 0))
        return np.asarray(np.sign(volume) * np.maximum(np.abs(volume) - least, 0))

    def rfftn(self, volume: Array) -> Array:
        """Return the forward transform of a real-space map."""
        return np.asarray(scipy.fft.rfftn(volume))

    def irfftn(self, transform: Array, box_size: int) -> Array:
        """Return the real-space map of a transform."""
        return np.asarray(scipy.fft.irfftn(transform, s=(box_size,) * 3), _F32)

    def to_host(self, array: Array) -> Array:
        """Return the array as NumPy: it is."""
        return array

    def to_device(self, array: Array) -> Array:
        """Return a NumPy array as the backend's: it is."""
        return array
