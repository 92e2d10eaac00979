"""The global search: every direction, in-plane angle and shift at once, from the low frequencies.

It makes the proposal that an image seen for the first time does not have yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.polar import PolarGrid
from streamrecon.geometry.quadrature import PoseCells


@dataclass(frozen=True)
class CellPosterior:
    """The searched log-likelihoods of a few images, still as correlation planes."""

    planes: Array
    power_term: Array
    best: Array


@dataclass(frozen=True)
class SearchMap:
    """A map as the search needs it: angular coefficients and ring powers of its slices, the rings it reaches."""

    coefficients: Array
    ring_power: Array
    ring_limit: int


class GlobalSearch:
    """Polar search.

    Parameters
    ----------
    box_size : int
    """

    def __init__(self, backend: Backend, grid: PolarGrid, cells: PoseCells, box_size: int) -> None:
        self.grid = grid
        self.cells = cells
        self._backend = backend
        self._box_size = box_size
        self._directions = backend.to_device(cells.directions[: cells.n_pairs])
        self._psi = backend.to_device(grid.psi().astype(np.float32))
        self._ring_weight = backend.to_device(grid.ring_weight)

    @property
    def bytes_per_image(self) -> int:
        """Memory that searching one image takes: shifted rings and their spectra, products, planes, masses."""
        grid, s, d = self.grid, len(self.cells.shifts), self.cells.n_pairs
        ring_points = s * grid.n_rings * (2 * grid.n_half + 2 * len(grid.q))
        return 4 * (ring_points + s * d * (4 * len(grid.q) + 4 * len(grid.cosine) + 3))

    def slices_of(self, cube: Array, pad: int, k_max: int) -> SearchMap:
        """Prepare a map for searching; rings beyond its ``k_max`` are left out."""
        coefficients, ring_power = self._backend.slice_coefficients(cube, pad, self.grid, self._directions)
        return SearchMap(coefficients, ring_power, min(k_max, self.grid.n_rings))

    def search(self, target: SearchMap, rings: Array, ring_ctf: Array, inverse_noise: Array) -> CellPosterior:
        """Return the log-likelihood ratio of every cell for n images.

        Parameters
        ----------
        target : SearchMap
        rings, ring_ctf : as in `Observations`
        inverse_noise : (n, n_shells) float32, on the device
        """
        backend, grid = self._backend, self.grid
        gain = inverse_noise[:, 1 : grid.n_rings + 1] * self._ring_weight
        gain[:, target.ring_limit :] = 0
        coefficients, ctf2 = backend.image_coefficients(rings, ring_ctf, gain, grid, self.cells.shifts, self._box_size)
        planes = backend.correlate(coefficients, target.coefficients, grid)
        power_term = ctf2 @ target.ring_power.T
        best = backend.best_cell(planes, power_term, len(self.cells.shifts))
        return CellPosterior(planes, power_term, best)

    def histogram(self, posterior: CellPosterior) -> Array:
        """Return how far below the best the cells lie (see `annealing`)."""
        return self._backend.cell_histogram(
            posterior.planes, posterior.power_term, len(self.cells.shifts), posterior.best
        )

    def draw(
        self, posterior: CellPosterior, temperature: float, defensive: int, random: tuple[Array, Array, Array]
    ) -> tuple[Array, Array, Array, Array]:
        """Draw poses from the tempered posterior.

        Returns
        -------
        rotation (n, K, 3, 3), shift (n, K, 2) pixels, density (n, K) over the uniform one, and
        summary (n, 3): total, effective sample size in cells, entropy in nats.
        """
        masses = self._backend.cell_masses(
            posterior.planes, posterior.power_term, len(self.cells.shifts), posterior.best, temperature
        )
        drawn = self._backend.draw_poses(
            posterior.planes, posterior.power_term, posterior.best, masses, temperature, defensive, self.cells,
            self._psi, random,
        )  # fmt: skip
        return (*drawn, masses[1])
