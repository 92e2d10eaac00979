"""The CUDA backend's part for the global search: polar coefficients, correlation, the posterior over cells, draws."""

from __future__ import annotations

import numpy as np

from streamrecon.compute.backend import Array
from streamrecon.compute.cpu_kernels.cells import HISTOGRAM_BINS, HISTOGRAM_SCALE
from streamrecon.compute.cuda.base import THREADS, WARP, Base
from streamrecon.fourier.polar import PolarGrid
from streamrecon.geometry.quadrature import PoseCells

_HISTOGRAM_SLICES = 4  # blocks that share an image's angles
_WARPS = THREADS // WARP


class SearchKernels(Base):
    """See `compute.backend.Backend` for what each method returns."""

    def slice_coefficients(self, cube: Array, pad: int, grid: PolarGrid, directions: Array) -> tuple[Array, Array]:
        """Return angular coefficients of the direction pairs' slices and their ring powers."""
        n, m = len(directions), grid.kx.size
        real, imaginary = self._empty(n, m), self._empty(n, m)
        self._launch_each(
            "extract_slices", n * m, cube, cube.shape[2] - 1, pad, self._tables.of(grid.kx), self._tables.of(grid.ky),
            directions, n, m, real, imaginary,
        )  # fmt: skip
        power = (real**2 + imaginary**2).reshape(n, grid.n_rings, grid.n_half).mean(axis=2)
        coefficients = self._angular(real.reshape(-1, grid.n_half), imaginary.reshape(-1, grid.n_half), grid)
        by_direction = coefficients.reshape(len(grid.q), 2, n, grid.n_rings)
        return self._contiguous(by_direction.transpose(0, 1, 3, 2)), power

    def _angular(self, real: Array, imaginary: Array, grid: PolarGrid) -> Array:
        """Angular coefficients (n_q, 2, rows) of rings (rows, n_half)."""
        matmul, rows = self._xp.matmul, len(real)
        out = self._empty(2 * len(grid.q), rows)
        n_even = len(grid.even_dft)
        matmul(self._tables.of(grid.even_dft), real.T, out=out[:n_even])
        matmul(self._tables.of(grid.odd_dft), imaginary.T, out=out[n_even:])
        return out.reshape(len(grid.q), 2, rows)

    def image_coefficients(
        self, rings: Array, ctf: Array, ring_gain: Array, grid: PolarGrid, shifts: Array, box_size: int
    ) -> tuple[Array, Array]:
        """Return angular coefficients of shifted, weighed images, and their C^2 ring sums."""
        n, s, r, h = len(rings), len(shifts), grid.n_rings, grid.n_half
        gain = self._contiguous(ring_gain)
        moved, ctf2 = self._empty(2, n * s * r, h), self._empty(n, r)
        self._launch_each(
            "shift_rings", n * s * r * h, rings, ctf, gain, self._tables.of(grid.kx), self._tables.of(grid.ky),
            self._tables.of(shifts), n, s, r, h, -2.0 / box_size, moved,
        )  # fmt: skip
        self._launch_warps("ring_power_weight", n * r, ctf, gain, n * r, h, ctf2)
        return self._angular(moved[0], moved[1], grid).reshape(len(grid.q), 2, n * s, r), ctf2

    def correlate(self, image_coefficients: Array, slice_coefficients: Array, grid: PolarGrid) -> Array:
        """Return the four correlation planes: real GEMMs over rings, then over angular frequency."""
        matmul, n_q = self._xp.matmul, len(grid.q)
        rows, directions = image_coefficients.shape[2], slice_coefficients.shape[3]
        planes = self._empty(4, len(grid.cosine), rows * directions)
        product = self._empty(n_q, rows, directions)
        # IrPr, IiPi, IrPi, IiPr: one product at a time, which a quarter of the memory suffices for
        for plane, (image, piece, waves) in enumerate(
            ((0, 0, grid.cosine), (1, 1, grid.cosine), (0, 1, grid.sine), (1, 0, grid.sine))
        ):
            matmul(image_coefficients[:, image], slice_coefficients[:, piece], out=product)
            matmul(self._tables.of(waves), product.reshape(n_q, -1), out=planes[plane])
        return planes

    def best_cell(self, planes: Array, power_term: Array, n_shifts: int) -> Array:
        """Return each image's highest log-likelihood ratio."""
        n, d = power_term.shape
        best = self._empty(n)
        self._launch(
            "best_cell", n, THREADS, planes, power_term, n, planes.shape[1], n_shifts, d, best, shared=4 * _WARPS
        )
        return best

    def cell_masses(
        self, planes: Array, power_term: Array, n_shifts: int, best: Array, temperature: float
    ) -> tuple[Array, Array]:
        """Return the posterior's mass by (shift, direction), and total, ESS and entropy."""
        n, d = power_term.shape
        mass, summary = self._empty(n, n_shifts * d), self._empty(n, 3, dtype=np.float64)
        self._launch(
            "cell_masses", n, THREADS, planes, power_term, best, n, planes.shape[1], n_shifts, d, 1 / temperature,
            mass, summary, shared=3 * 8 * _WARPS,
        )  # fmt: skip
        return mass, summary

    def cell_histogram(self, planes: Array, power_term: Array, n_shifts: int, best: Array) -> Array:
        """Return how far the cells lie below the best."""
        n, d = power_term.shape
        histogram: Array = self._xp.zeros((n, HISTOGRAM_BINS), np.int32)
        self._launch(
            "cell_histogram", (n, _HISTOGRAM_SLICES), THREADS, planes, power_term, best, n, planes.shape[1], n_shifts,
            d, HISTOGRAM_SCALE, HISTOGRAM_BINS, histogram, shared=4 * HISTOGRAM_BINS,
        )  # fmt: skip
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
        mass, summary = masses
        start, pick, place = (self._contiguous(r) for r in random)
        n, k = pick.shape[:2]
        cumulative = self._empty(*mass.shape, dtype=np.float64)
        self._launch("scan_masses", n, THREADS, mass, mass.shape[1], cumulative, shared=8 * (_WARPS + 1))
        rotation, shift, density = self._empty(n, k, 3, 3), self._empty(n, k, 2), self._empty(n, k)
        self._launch_warps(
            "draw_poses", n * k, planes, power_term, best, mass, cumulative, summary, start, pick, place,
            self._tables.of(cells.children), psi, self._tables.of(cells.shifts), n, planes.shape[1],
            len(cells.shifts), power_term.shape[1], k, defensive, cells.children.shape[1], 1 / temperature,
            2 * np.pi / cells.n_psi, cells.shift_step, rotation, shift, density,
        )  # fmt: skip
        return rotation, shift, density
