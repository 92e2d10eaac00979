"""EM and projection matching: all images against the map, then a new map from all images, and again.

EM is RELION's form of it: the full posterior over a grid of poses, noise spectrum and spectral prior estimated anew in
each iteration. Projection matching gives each image to its best pose. Both use the search, accumulators and solver
of the streaming engine, so that what differs is the method. Poses are as fine as the grid; the band ends where the
search's rings do.

References
----------
Scheres 2012, J. Struct. Biol. 180, 519, eq. 3 to 7 (regularised likelihood). Penczek, Grassucci and Frank 1994,
Ultramicroscopy 53, 251 (projection matching).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import HalfPlanePoints, half_plane_points, points_within
from streamrecon.fourier.polar import polar_grid
from streamrecon.fourier.shells import first_shell_below, shell_index_rfft, shell_sums
from streamrecon.geometry.quadrature import pose_cells
from streamrecon.inference.observation import ImageGeometry, Observations, Preparer
from streamrecon.inference.search import CellPosterior, GlobalSearch, SearchMap
from streamrecon.particles import ParticleBatch
from streamrecon.peers.pose_grid import RotationSums, assign, cell_rotations, cell_scores
from streamrecon.reconstruct.accumulator import Accumulator
from streamrecon.reconstruct.half_maps import PAD
from streamrecon.reconstruct.mapping import MapSolver, SolvedMap, resize_volume
from streamrecon.reconstruct.noise import NoiseModel

_CHUNK = 40  # images whose scores are held at once
_SHIFT_STEP = 0.44  # at most, of a resolution element at the last ring, as in the engine
_BAND_THRESHOLD = 0.143
_BAND_MARGIN = 2  # shells beyond the FSC's fall that are tried in the next iteration
_START_FSC = 0.5
_HIGHEST_FSC = 0.999


@dataclass(frozen=True)
class PeerSettings:
    """How the batch methods work.

    Attributes
    ----------
    method : "em" or "projection_matching"
    search_shells : int
        Rings of the search, and the last shell of the map.
    direction_order, in_plane_angles : int
        The grid of rotations: HEALPix n_side (4 is 15 degrees), angles a turn.
    start_shells : int
        Band of the first iteration.
    tau2 : "map" or "fsc"
        The spectral prior: from the power of the map before, as RELION's classification and initial models have it, or
        from the FSC between half maps, as its refinement has.
    """

    method: Literal["em", "projection_matching"] = "em"
    search_shells: int = 14
    direction_order: int = 4
    in_plane_angles: int = 48
    start_shells: int = 8
    tau2: Literal["map", "fsc"] = "fsc"


@dataclass(frozen=True)
class Iteration:
    """What one pass over all images gave.

    Attributes
    ----------
    rotation : ndarray, (n, 3, 3) float32
    shift : ndarray, (n, 2) float32, pixels
        The best poses.
    log_evidence : float, nats
        Mean over images, against the map before.
    effective_sample_size : float
        Mean, in cells.
    k_max : int
        Band of the new map.
    """

    rotation: NDArray[np.float32]
    shift: NDArray[np.float32]
    log_evidence: float
    effective_sample_size: float
    k_max: int


class BatchReconstruction:
    """A batch method on images that are all there.

    Parameters
    ----------
    settings : PeerSettings
    geometry : ImageGeometry
    backend : Backend
    """

    def __init__(self, settings: PeerSettings, geometry: ImageGeometry, backend: Backend) -> None:
        self._settings = settings
        self._geometry = geometry
        self._backend = backend
        box = geometry.box_size
        rings = min(settings.search_shells, box // 2 - 4)
        self._limit = rings
        self._grid = polar_grid(rings, geometry.particle_radius / box, settings.in_plane_angles)
        steps = max(1, int(np.ceil(geometry.shift_range / (_SHIFT_STEP * box / rings))))
        self.cells = pose_cells(
            settings.direction_order, settings.in_plane_angles, geometry.shift_range, geometry.shift_range / steps
        )
        self._search = GlobalSearch(backend, self._grid, self.cells, box)
        self._preparer = Preparer(backend, geometry, self._grid)
        self._rotations = cell_rotations(self.cells, self._grid.psi())
        self._solver = MapSolver(backend, geometry)
        self._observations: list[Observations] = []
        self._half: list[NDArray[np.int8]] = []
        self._noise = NoiseModel(1, box // 2 + 1)
        self._k_max = min(settings.start_shells, self._limit)
        self._solved: SolvedMap | None = None
        self._reference: Array | None = None

    @property
    def volume(self) -> NDArray[np.float32]:
        """The map, (box,)*3 float32.

        Raises
        ------
        NumericalError
            There is none yet.
        """
        if self._reference is None:
            raise NumericalError("no map yet: give one with start()")
        return resize_volume(self._backend.to_host(self._reference), self._geometry.box_size)

    def __len__(self) -> int:
        return sum(len(o.group) for o in self._observations)

    def load(self, batches: Iterable[ParticleBatch]) -> None:
        """Take up images; all are visited in each iteration."""
        points = half_plane_points(self._limit)
        for batch in batches:
            for start in range(0, len(batch), _CHUNK):
                part = batch.select(np.arange(start, min(start + _CHUNK, len(batch))))
                n = len(part)
                step = np.full(n, self._geometry.frequency_step, np.float32)
                observed = self._preparer.prepare(
                    np.ascontiguousarray(part.images, np.float32), part.table.ctf_coefficients(), step,
                    np.zeros(n, np.int32), points,
                )  # fmt: skip
                self._noise.update(observed.group, observed.power, observed.mask_fill)
                self._observations.append(observed)
                self._half.append(part.half)

    def start(self, volume: NDArray[np.float32]) -> None:
        """Begin from a map, (box,)*3 float32; its frequencies beyond the first band are not used."""
        self._reference = self._backend.to_device(np.asarray(volume, np.float32))
        self._solved = None
        self._k_max = min(self._settings.start_shells, self._limit)

    def iterate(self) -> Iteration:
        """Visit every image once, and make the next map.

        Raises
        ------
        NumericalError
            There is no map to begin from, there are no images, or a likelihood is not finite.
        """
        if self._reference is None or not self._observations:
            raise NumericalError("a batch method needs images and a map to begin from: load() and start() first")
        backend, box, k = self._backend, self._geometry.box_size, self._k_max
        cube = backend.cube(self._reference, PAD, PAD * self._limit + 2)
        target = self._search.slices_of(cube, PAD, k)
        points = half_plane_points(k)
        sums = [RotationSums(self.cells, self._rotations.shape[1], points, box) for _ in range(2)]
        noise = NoiseModel(1, box // 2 + 1)
        found = []
        for observed, half in zip(self._observations, self._half, strict=True):
            found.append(self._visit(observed, half, target, cube, points, sums, noise))
        rotation, shift, evidence, size = (np.concatenate(column) for column in zip(*found, strict=True))
        if not np.isfinite(evidence).all():
            raise NumericalError("a likelihood is not finite; check the images for extreme values")
        self._solve(sums, points)
        self._noise = noise
        return Iteration(rotation, shift, float(evidence.mean()), float(size.mean()), self._k_max)

    def _visit(
        self,
        observed: Observations,
        half: NDArray[np.int8],
        target: SearchMap,
        cube: Array,
        points: HalfPlanePoints,
        sums: list[RotationSums],
        noise: NoiseModel,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
        """Assign a chunk of images and add them to the sums; return best poses, log-evidence and ESS."""
        backend, box, n = self._backend, self._geometry.box_size, len(observed.group)
        inverse_noise = backend.to_device(self._noise.inverse(observed.group))
        searched = self._search.search(target, observed.rings, observed.ring_ctf, inverse_noise)
        on_host = CellPosterior(*(backend.to_host(a) for a in (searched.planes, searched.power_term, searched.best)))
        scores = cell_scores(on_host, len(self.cells.shifts))
        found = assign(scores, soft=self._settings.method == "em")
        _, columns = points_within(half_plane_points(self._limit), points.k_max)
        real, imaginary, ctf = (a[:, columns] for a in (observed.real, observed.imaginary, observed.ctf))
        weighed = backend.to_host(backend.weigh(real, imaginary, ctf, points.shell, inverse_noise))
        for h in range(2):
            rows = np.flatnonzero(half == h)
            if len(rows):
                sums[h].add(found.weight[:, :, rows], weighed[:, rows])
        variant, angle, shift_index, direction = found.best.T
        rotation, shift = self._rotations[variant, angle, direction], self.cells.shifts[shift_index]
        residual = backend.residual(
            cube, PAD, points, box, points.k_max + 1, (real, imaginary, ctf), backend.to_device(rotation),
            backend.to_device(shift),
        )  # fmt: skip
        power = np.array(observed.power)
        power[:, 1 : points.k_max + 1] = backend.to_host(residual)[:, 1:]
        noise.update(np.zeros(n, np.int32), power, observed.mask_fill)
        return rotation, shift, found.log_evidence, found.effective_sample_size

    def _solve(self, sums: list[RotationSums], points: HalfPlanePoints) -> None:
        """Make the next map from both halves' sums, and choose the next band."""
        backend, k = self._backend, points.k_max
        rotations = self._rotations.reshape(-1, 1, 3, 3)
        halves = (Accumulator(backend, PAD, k), Accumulator(backend, PAD, k))
        for accumulator, half in zip(halves, sums, strict=True):
            used = np.flatnonzero(half.sums[2].any(axis=1))
            n = len(used)
            backend.insert(
                accumulator.grid, PAD, points, self._geometry.box_size, backend.to_device(half.sums[:, used]),
                backend.to_device(rotations[used]), backend.zeros((n, 1, 2)), 1.0 + backend.zeros((n, 1)), 0.0, 1.0,
            )  # fmt: skip
        if self._settings.tau2 == "map" and self._solved is not None:
            prior = self._prior_from_map(halves, self._solved)
        elif self._solved is not None:
            prior = self._solved.fsc.astype(np.float64)
        else:
            prior = np.full(1, _START_FSC)
        self._solved = self._solver.solve(halves, k, prior)
        self._reference = self._solved.volume
        wanted = first_shell_below(self._solved.fsc, _BAND_THRESHOLD) + _BAND_MARGIN
        self._k_max = min(max(wanted, self._settings.start_shells), self._limit)

    def _prior_from_map(self, halves: tuple[Accumulator, Accumulator], latest: SolvedMap) -> NDArray[np.float64]:
        """Return tau2 of the latest map by shell, in the form of the FSC that the solver takes.

        Notes
        -----
        A coefficient's precision 1 / tau2 is shared by pad^3 grid points; the solver adds <a> / (2 SSNR) to the weight
        a of both halves, so SSNR = <a> tau2 pad^3 / 2.
        """
        transform = self._backend.to_host(self._backend.rfftn(latest.volume))
        n = latest.k_max + 1
        shells = shell_index_rfft(len(latest.volume))
        counts = np.maximum(shell_sums(np.ones(shells.shape), shells, n), 1.0)
        tau2 = shell_sums(np.abs(transform) ** 2, shells, n) / counts
        weight = sum(self._backend.shell_weights(half.grid, PAD, n) for half in halves)
        ssnr = 0.5 * PAD**3 * weight * tau2
        return np.clip(ssnr / (1.0 + ssnr), 0.0, _HIGHEST_FSC)
