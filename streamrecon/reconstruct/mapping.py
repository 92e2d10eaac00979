"""From two half-set accumulators to the map: FSC, spectral prior, solution, real-space window.

The FSC between the half maps gives each shell's signal-to-noise ratio, SSNR = FSC / (1 - FSC) a half, and that is the
prior: V = numerator / (weight + mean weight / SSNR), RELION's form of the Wiener filter.

References
----------
Scheres 2012, J. Struct. Biol. 180, 519, eq. 3 and 15; Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.inference.observation import ImageGeometry, soft_sphere
from streamrecon.reconstruct import priors
from streamrecon.reconstruct.accumulator import Accumulator

_SPARSE_FLOOR = 1e-2  # of the mean weight: what keeps the solution before the sparse prior finite
_FSC_RANGE = (0.02, 0.995)  # keeps the prior finite where halves agree or disagree by chance


def map_box_for(k_max: int, box_size: int) -> int:
    """Return an even box of small prime factors that holds ``k_max`` shells and a margin, at most ``box_size``."""
    size = 2 * (k_max + 2)
    while size < box_size:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2
    return box_size


def signal_to_noise(fsc: NDArray[np.floating], n_shells: int) -> NDArray[np.float64]:
    """Return a half's signal-to-noise ratio FSC / (1 - FSC) by shell; the last known FSC serves the shells beyond."""
    clipped = np.clip(np.asarray(fsc, np.float64), *_FSC_RANGE)
    shells = np.minimum(np.arange(n_shells), len(clipped) - 1)
    return np.asarray(clipped[shells] / (1.0 - clipped[shells]))


@dataclass(frozen=True)
class SolvedMap:
    """The map and halves of one update, real space, (map_box,)*3; ``fsc`` up to ``k_max``."""

    volume: Array
    half_a: Array
    half_b: Array
    fsc: NDArray[np.float32]
    k_max: int


@dataclass(frozen=True)
class PriorChoice:
    """Which priors a map is solved under (see `streamrecon.reconstruct.priors`); the default is the FSC's alone."""

    kind: Literal["fsc", "sparse", "car"] = "fsc"
    non_negative: bool = False
    solvent_flattening: bool = False


class MapSolver:
    """Solves for the map of a session's geometry."""

    def __init__(self, backend: Backend, geometry: ImageGeometry, prior: PriorChoice | None = None) -> None:
        self._backend = backend
        self._geometry = geometry
        self._prior = prior or PriorChoice()
        self._window: tuple[int, Array] | None = None

    def mask(self, map_box: int) -> Array:
        """Return the window of a map's size on the device; the latest is kept, a large one takes longer than a map."""
        if self._window is None or self._window[0] != map_box:
            self._window = (map_box, self._backend.to_device(self._mask_on_host(map_box)))
        return self._window[1]

    def _mask_on_host(self, map_box: int) -> NDArray[np.float32]:
        scale = map_box / self._geometry.box_size
        radius = (self._geometry.particle_radius + 0.02 * self._geometry.box_size) * scale
        edge = max(1.5, 0.08 * map_box)
        return soft_sphere(map_box, min(radius, map_box / 2 - edge), edge, dimensions=3)

    def solve(
        self,
        halves: tuple[Accumulator, Accumulator],
        k_max: int,
        fsc: NDArray[np.floating],
        latest: SolvedMap | None = None,
    ) -> SolvedMap:
        """Solve for the half maps and the map.

        Parameters
        ----------
        halves : two Accumulator
        k_max : int
        fsc : ndarray, (>= 1,)
            The last update's, the prior of this one; its last value serves the shells beyond.
        latest : SolvedMap, optional
            The last update's; the CAR prior takes its strength from it, and is the FSC's without it.
        """
        backend = self._backend
        pad = halves[0].pad
        map_box = map_box_for(k_max, self._geometry.box_size)
        a, b = halves[0].grid, halves[1].grid
        # both halves forget together, so that they share one gain
        scale = 1.0 / halves[0].gain
        weight_a, weight_b = (
            scale * weight
            for weight in backend.run_each([partial(backend.shell_weights, grid, pad, k_max + 2) for grid in (a, b)])
        )
        ssnr = signal_to_noise(fsc, k_max + 2)
        mask = self.mask(map_box)

        smooth = self._smoothness(latest, k_max + 2, pad)

        def one(grids: tuple[Array, Array], weight: NDArray[np.float64], ratio: float, factor: float) -> Array:
            regulariser = weight / (ratio * ssnr)
            if smooth is not None:
                # the prior's strength follows the map's energy, and the map the prior: unchecked, a poor map would
                # shrink to nothing. The FSC does not know the map's scale
                regulariser = np.minimum(smooth, regulariser)
            if self._prior.kind == "sparse":
                regulariser = _SPARSE_FLOOR * weight
            solved = backend.solve(grids, pad, k_max, regulariser, factor, map_box) * mask
            return self._constrained(solved, weight + regulariser, pad, k_max)

        # the sum of both halves has twice the signal-to-noise ratio of one
        volume, half_a, half_b = backend.run_each(
            [
                partial(one, (a, b), weight_a + weight_b, 2.0, scale),
                partial(one, (a, a), weight_a, 1.0, scale / 2),
                partial(one, (b, b), weight_b, 1.0, scale / 2),
            ]
        )
        # before the solvent is flattened: a common mask would correlate the halves
        new_fsc = backend.shell_correlation(half_a, half_b, k_max + 1)
        if self._prior.solvent_flattening:
            voxel = self._geometry.pixel_size_angstrom * self._geometry.box_size / map_box
            particle = backend.to_device(priors.solvent_mask(backend.to_host(volume), voxel))
            volume, half_a, half_b = volume * particle, half_a * particle, half_b * particle
        return SolvedMap(volume, half_a, half_b, new_fsc, k_max)

    def _smoothness(self, latest: SolvedMap | None, n_shells: int, pad: int) -> NDArray[np.float64] | None:
        """Return the CAR prior's precision of a grid point by shell, None if another prior is chosen."""
        if self._prior.kind != "car" or latest is None:
            return None
        transform = self._backend.to_host(self._backend.rfftn(latest.volume))
        # pad^3 grid points share a coefficient's
        return priors.car_regulariser(np.abs(transform) ** 2, len(latest.volume), n_shells) / pad**3

    def _constrained(self, volume: Array, weight: NDArray[np.float64], pad: int, k_max: int) -> Array:
        """Return the map under the priors that are not quadratic; ``weight`` is the mean of a grid point by shell."""
        sparse = self._prior.kind == "sparse"
        if not sparse and not self._prior.non_negative:
            return volume
        # pad^3 grid points stand for a coefficient, each half of the transform for one half of them
        curvature = 0.5 * pad**3 * weight
        rate = 0.0
        if sparse:
            # so many voxels are independent: the band has no more coefficients
            independent = 4.0 / 3.0 * np.pi * k_max**3 / len(volume) ** 3
            rate = independent * priors.exponential_rate(self._backend.to_host(volume))
        return priors.constrained(
            self._backend, volume, curvature, rate, non_negative=self._prior.non_negative or sparse
        )


def resize_volume(volume: NDArray[np.floating], box_size: int) -> NDArray[np.float32]:
    """Fourier-resample a real-space map to another box that spans the same length, (box,)*3 float32.

    The sum over voxels is kept: a projection keeps its transform.
    """
    old = len(volume)
    transform = scipy.fft.rfftn(np.fft.ifftshift(np.asarray(volume, np.float32)))
    out = np.zeros((box_size, box_size, box_size // 2 + 1), np.complex64)
    # the Nyquist planes of the smaller box are dropped: they have no Friedel mate in the larger one
    reach = min(old, box_size) // 2 - 1
    ends = (slice(0, reach + 1), slice(-reach, None))
    for z in ends:
        for y in ends:
            out[z, y, : reach + 1] = transform[z, y, : reach + 1]
    real = scipy.fft.irfftn(out, s=(box_size,) * 3, overwrite_x=True)
    return np.asarray(np.fft.fftshift(real), np.float32)
