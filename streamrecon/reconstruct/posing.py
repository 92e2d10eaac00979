"""The pose posterior of a batch: preparation, annealed search and sampling, against the current map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints, points_within
from streamrecon.fourier.polar import polar_grid
from streamrecon.geometry.asymmetric import asymmetric_cells
from streamrecon.geometry.quadrature import pose_cells
from streamrecon.inference.importance import Band, PoseSamples, SamplingPlan, plan_rounds, refine_samples
from streamrecon.inference.observation import ImageGeometry, Observations, Preparer
from streamrecon.inference.search import GlobalSearch, SearchMap
from streamrecon.reconstruct.collective import Share
from streamrecon.reconstruct.half_maps import PAD
from streamrecon.reconstruct.settings import EngineSettings

_Result = TypeVar("_Result")
_PROBE_SHARE = 0.2
_SHIFT_STEP = 0.44  # at most, of a resolution element at the search's last ring
_ROTATION_TARGET = 0.25  # of a resolution element at the particle's rim
_LOCAL_ROUNDS = 2  # of a revisit: boxes of twice the finest width, then of that
_BAND_TARGET = 0.4  # a box this wide is scored on the shells up to that of this element


@dataclass(frozen=True)
class Reference:
    """A map that poses are found against: for slicing at full band, and for the global search."""

    cube: Array
    search: SearchMap


class PoseEstimator:
    """Estimates poses of images that were never seen before.

    Batches come sorted: the ``n_a`` images of half a first. Each half has its own reference; while poses are found on a
    common map both are the same.
    """

    def __init__(
        self, settings: EngineSettings, geometry: ImageGeometry, backend: Backend, *, masked: bool = True
    ) -> None:
        self._settings = settings
        self._geometry = geometry
        self._backend = backend
        box = geometry.box_size
        rings = min(settings.search_shells, box // 2 - 4)
        grid = polar_grid(rings, geometry.particle_radius / box, settings.in_plane_angles)
        # whole steps, so that the grid's last points lie at the range that was asked for
        steps = max(1, int(np.ceil(geometry.shift_range / (_SHIFT_STEP * box / rings))))
        self.cells = pose_cells(
            settings.direction_order, settings.in_plane_angles, geometry.shift_range, geometry.shift_range / steps
        )
        self._all_cells = self.cells
        self._search = GlobalSearch(backend, grid, self.cells, box)
        self.preparer = Preparer(backend, geometry, grid, masked=masked)
        backend.reserve(self._search.bytes_per_image)
        self._references: tuple[Reference, Reference] | None = None
        self._bands: dict[tuple[int, int], Band] = {}

    @property
    def search_rings(self) -> int:
        """Rings the global search reads, whatever k_max is."""
        return self._search.grid.n_rings

    @property
    def cubes(self) -> tuple[Array, Array]:
        """Return the maps that images of half a and half b are posed against, as cubes of slices."""
        if self._references is None:
            raise RuntimeError("maps asked for before set_maps")
        return self._references[0].cube, self._references[1].cube

    def limit_to(self, operators: NDArray[np.floating]) -> None:
        """Search from now on, of directions that a symmetric map makes equivalent, only one; `set_maps` comes next.

        Parameters
        ----------
        operators : ndarray, (order, 3, 3)
            The maps' point group; the identity alone: search everywhere.
        """
        self.cells = asymmetric_cells(self._all_cells, operators)
        self._search = GlobalSearch(self._backend, self._search.grid, self.cells, self._geometry.box_size)
        self._references = None

    def set_maps(self, cubes: tuple[Array, Array], k_max: int) -> None:
        """Take up the maps that the images of half a and half b are posed against; may be one and the same."""
        first = Reference(cubes[0], self._search.slices_of(cubes[0], PAD, k_max))
        second = first
        if cubes[1] is not cubes[0]:
            second = Reference(cubes[1], self._search.slices_of(cubes[1], PAD, k_max))
        self._references = (first, second)

    def _by_reference(self, n_a: int, n: int) -> list[tuple[Reference, int, int]]:
        """Return which reference serves which rows."""
        if self._references is None:
            raise RuntimeError("poses asked for before set_maps")
        first, second = self._references
        if first is second:
            return [(first, 0, n)]
        return [(first, 0, n_a), (second, n_a, n)]

    def _run(self, function: Callable[[Reference, int, int], _Result], n_a: int, n: int) -> list[_Result]:
        """Apply ``function(reference, start, stop)`` to pieces of the batch, in order."""
        results: list[_Result] = []
        for reference, start, stop in self._by_reference(n_a, n):
            if stop > start:
                results += self._backend.run(
                    lambda a, b, r=reference, s=start: function(r, s + a, s + b),  # type: ignore[misc]
                    stop - start,
                )
        return results

    def probe(self, observations: Observations, inverse_noise: Array, share: Share) -> NDArray[np.integer]:
        """Return the cell histograms of the first fifth of the batch's images (see `annealing`)."""
        n_probe = share.of(max(1, int(np.ceil(_PROBE_SHARE * share.n))))

        def piece(reference: Reference, a: int, b: int) -> Array:
            found = self._search.search(
                reference.search, observations.rings[a:b], observations.ring_ctf[a:b], inverse_noise[a:b]
            )
            return self._search.histogram(found)

        # annealing is over before the halves part, so that which reference serves hardly matters
        found = np.zeros((0, 0), np.int32)
        if n_probe:
            found = self._backend.to_host(self._backend.concatenate(self._run(piece, n_probe, n_probe)))
        (histogram,) = share.join(found)
        return histogram

    def weigh(self, observations: Observations, inverse_noise: Array, points: HalfPlanePoints, rows: slice) -> Array:
        """Return the weighed images of some rows, (3, n, n_points)."""
        return self._backend.weigh(
            observations.real[rows],
            observations.imaginary[rows],
            observations.ctf[rows],
            points.shell,
            inverse_noise[rows],
        )

    def sample(
        self,
        observations: Observations,
        inverse_noise: Array,
        points: HalfPlanePoints,
        temperature: float,
        n_a: int,
        rng: np.random.Generator,
        share: Share,
        modes: PoseSamples | None = None,
    ) -> tuple[PoseSamples, Array]:
        """Search and importance-sample every image; also return the weighed images.

        Every image has its own random stream, so that the result does not depend on how a batch is cut
        into pieces.

        Parameters
        ----------
        n_a : int
            Of this rank's images.
        rng : numpy.random.Generator
            Of the whole batch.
        share : Share
            Which of its images these are.
        modes : PoseSamples, optional
            Poses found earlier: as many draws again are made around them, and compete with those of the search.
        """
        backend, box = self._backend, self._geometry.box_size
        n, k = len(observations.group), self._settings.samples
        plan = self._plan(points, temperature)
        rounds = len(plan.rotation_half_widths)
        defensive = round(self._settings.defensive_share * k)
        draw = partial(self._draw, rng, share)
        start = draw(1 + rounds)
        pick_and_place = backend.to_device(share.own(rng.random((2, share.n, k, 4), np.float32), axis=1))
        pick, place = pick_and_place[0], pick_and_place[1]
        moves = [draw(count, 5) for count in plan.samples]
        around = None if modes is None else (draw(), draw(k, 5))

        def piece(reference: Reference, a: int, b: int) -> tuple[PoseSamples, Array]:
            found = self._search.search(
                reference.search, observations.rings[a:b], observations.ring_ctf[a:b], inverse_noise[a:b]
            )
            draws = (start[a:b, 0], pick[a:b], place[a:b])
            *first, summary = self._search.draw(found, temperature, defensive, draws)
            if modes is not None and around is not None:
                near = self._around(modes, plan, (around[0][a:b], around[1][a:b]), slice(a, b))
                # two samples of the same posterior, each weighed by its own density: the rounds to come decide
                first = [backend.concatenate(pair, axis=1) for pair in zip(first, near, strict=True)]
            weighed = self.weigh(observations, inverse_noise, points, slice(a, b))
            samples = refine_samples(
                backend, reference.cube, PAD, box, weighed, first, plan, (start[a:b, 1:], [m[a:b] for m in moves])
            )
            return replace(samples, coarse_entropy=summary[:, 2]), weighed

        pieces = self._run(piece, n_a, n)
        weighed = backend.concatenate([w for _, w in pieces], axis=1)
        return PoseSamples.concatenate(backend, [s for s, _ in pieces]), weighed

    def resample(
        self,
        observations: Observations,
        inverse_noise: Array,
        points: HalfPlanePoints,
        modes: PoseSamples,
        n_a: int,
        rng: np.random.Generator,
        share: Share,
    ) -> tuple[PoseSamples, Array]:
        """Importance-sample every image around the poses found earlier; also return the weighed images."""
        backend, box = self._backend, self._geometry.box_size
        n, k = len(observations.group), self._settings.samples
        plan = self._local_plan(points)
        rest = replace(
            plan,
            rotation_half_widths=plan.rotation_half_widths[1:],
            shift_half_widths=plan.shift_half_widths[1:],
            samples=plan.samples[1:],
        )
        draw = partial(self._draw, rng, share)
        around = (draw(), draw(k, 5))
        start = draw(_LOCAL_ROUNDS - 1)
        moves = [draw(count, 5) for count in rest.samples]

        def piece(reference: Reference, a: int, b: int) -> tuple[PoseSamples, Array]:
            first = self._around(modes, plan, (around[0][a:b], around[1][a:b]), slice(a, b))
            weighed = self.weigh(observations, inverse_noise, points, slice(a, b))
            random = (start[a:b], [m[a:b] for m in moves])
            return refine_samples(backend, reference.cube, PAD, box, weighed, first, rest, random), weighed

        pieces = self._run(piece, n_a, n)
        weighed = backend.concatenate([w for _, w in pieces], axis=1)
        return PoseSamples.concatenate(backend, [s for s, _ in pieces]), weighed

    def _draw(self, rng: np.random.Generator, share: Share, *shape: int) -> Array:
        """Return random numbers of a shape for each of this rank's images."""
        return self._backend.to_device(share.own(rng.random((share.n, *shape), np.float32)))

    def _around(
        self, modes: PoseSamples, plan: SamplingPlan, random: tuple[Array, Array], rows: slice
    ) -> tuple[Array, Array, Array]:
        """Draw poses in the boxes of a plan's first round around some images' modes."""
        return self._backend.propose(
            modes.rotation[rows], modes.shift[rows], modes.weight[rows], plan.rotation_half_widths[0],
            plan.shift_half_widths[0], plan.shift_area, *random,
        )  # fmt: skip

    def _local_plan(self, points: HalfPlanePoints) -> SamplingPlan:
        """Return the plan of a revisit: boxes around the modes, the last as fine as those of a search."""
        full = self._plan(points, 1.0)
        widths = [2.0**r for r in reversed(range(_LOCAL_ROUNDS))]
        turns = tuple(w * full.rotation_half_widths[-1] for w in widths)
        return replace(
            full,
            rotation_half_widths=turns,
            shift_half_widths=tuple(w * full.shift_half_widths[-1] for w in widths),
            bands=(*(self._band(points, self._shells(turn)) for turn in turns[:-1]), Band(points, None)),
            samples=(self._settings.samples,) * _LOCAL_ROUNDS,
        )

    def _shells(self, rotation_half_width: float) -> int:
        """Return the shells that tell where to look inside boxes of a width: a phase may not turn over inside."""
        rim = self._geometry.particle_radius / self._geometry.box_size
        return max(int(np.ceil(_BAND_TARGET / (rotation_half_width * rim))), self.search_rings)

    def _plan(self, points: HalfPlanePoints, temperature: float) -> SamplingPlan:
        cells, rim = self.cells, self._geometry.particle_radius / self._geometry.box_size  # turns a shell at the rim
        turns, slides = plan_rounds(
            cells.rotation_half_width,
            cells.shift_step / 2,
            _ROTATION_TARGET / (points.k_max * rim),
            self._settings.rounds,
        )
        # while a box is wide, frequencies whose phase turns over many times inside it tell nothing of where to look
        shells = [self._shells(width) for width in (cells.rotation_half_width, *turns[:-1])]
        return SamplingPlan(
            rotation_half_widths=turns,
            shift_half_widths=slides,
            bands=(*(self._band(points, k) for k in shells), Band(points, None)),
            samples=(*[(self._settings.samples + 1) // 2] * (len(turns) - 1), self._settings.samples),
            # of all poses, which the density of a draw is relative to, as many as are searched
            shift_area=cells.share * len(cells.shifts) * cells.shift_step**2,
            temperature=temperature,
        )

    def _band(self, points: HalfPlanePoints, k_max: int) -> Band:
        """Return the part of the points up to a shell; kept, since it changes only with the band itself."""
        if k_max >= points.k_max:
            return Band(points, None)
        key = (points.k_max, k_max)
        if key not in self._bands:
            self._bands = {k: band for k, band in self._bands.items() if k[0] == points.k_max}
            narrow, index = points_within(points, k_max)
            self._bands[key] = Band(narrow, self._backend.to_device(index))
        return self._bands[key]

    def residual_power(
        self, observations: Observations, samples: PoseSamples, points: HalfPlanePoints, n_a: int
    ) -> NDArray[np.float32]:
        """Return the residual power by shell at the best poses, (n, n_shells); beyond k_max all power is noise."""
        power = np.array(observations.power)
        power[:, 1 : points.k_max + 1] = self._residuals(observations, samples, points, n_a, 1.0)[:, 1:]
        return power

    def match_and_power(
        self,
        observations: Observations,
        samples: PoseSamples,
        points: HalfPlanePoints,
        n_a: int,
        residual: NDArray[np.float32],
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return the means of Re(conj(C slice) I) and C^2 |slice|^2 by shell at the best poses, each (n, k_max + 1).

        Parameters
        ----------
        residual : ndarray, (n, >= k_max + 1)
            From `residual_power`. What is asked for follows from that of the slice, of its negative and of none.
        """
        own = residual[:, : points.k_max + 1]
        opposite = self._residuals(observations, samples, points, n_a, -1.0)
        nothing = self._residuals(observations, samples, points, n_a, 0.0)
        return (opposite - own) / 4, (own + opposite) / 2 - nothing

    def _residuals(
        self, observations: Observations, samples: PoseSamples, points: HalfPlanePoints, n_a: int, factor: float
    ) -> NDArray[np.float32]:
        """Return the mean of |I - factor C slice|^2 by shell, (n, k_max + 1)."""
        backend = self._backend
        rotation, shift = samples.best_pose(backend)

        def piece(reference: Reference, a: int, b: int) -> Array:
            ctf = observations.ctf[a:b] if factor == 1.0 else factor * observations.ctf[a:b]
            observed = (observations.real[a:b], observations.imaginary[a:b], ctf)
            return backend.residual(
                reference.cube, PAD, points, self._geometry.box_size, points.k_max + 1, observed, rotation[a:b],
                shift[a:b],
            )  # fmt: skip

        return backend.to_host(backend.concatenate(self._run(piece, n_a, len(rotation))))
