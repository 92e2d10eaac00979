"""The reconstruction proper: two half-set accumulators and the map they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.fourier.shells import shell_index_rfft
from streamrecon.geometry.orientation import Orientation
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry
from streamrecon.particles import HALVES
from streamrecon.reconstruct.accumulator import Accumulator
from streamrecon.reconstruct.collective import ALONE, Collective, agreed
from streamrecon.reconstruct.mapping import MapSolver, PriorChoice, SolvedMap
from streamrecon.reconstruct.symmetrise import symmetrised, turned_map

PAD = 2
_START_FSC = 0.5  # the prior of the very first map: as much signal as noise


class HalfMaps:
    """Running sums of both halves, and the latest map solved from them.

    Where several processes share the work, each gathers its own images, and all solve for the map of all.

    Attributes
    ----------
    fsc : ndarray, (n,) float32
        Of the latest map; the spectral prior of the next.
    latest : SolvedMap or None
        None before the first `solve`.
    orientation : Orientation
        The symmetry that is imposed on every map solved; the sums stay as the images gave them.
    """

    def __init__(
        self,
        backend: Backend,
        geometry: ImageGeometry,
        k_max: int,
        prior: PriorChoice | None = None,
        collective: Collective = ALONE,
    ) -> None:
        self._backend = backend
        self._collective = collective
        self._box_size = geometry.box_size
        self._solver = MapSolver(backend, geometry, prior)
        self._accumulators = (Accumulator(backend, PAD, k_max), Accumulator(backend, PAD, k_max))
        self.fsc: NDArray[np.float32] = np.full(1, _START_FSC, np.float32)
        self.latest: SolvedMap | None = None
        self._low: tuple[tuple[int, int], Array] | None = None
        self.orientation = Orientation()

    @property
    def level(self) -> float:
        """Level of the sums (see `Accumulator`): both halves forget together."""
        return self._accumulators[0].level

    @property
    def step_size(self) -> float:
        """Return the step size of an optimiser; NaN, as running sums have none."""
        return float("nan")

    def insert(
        self,
        n_a: int,
        samples: PoseSamples,
        weighed: Array,
        points: HalfPlanePoints,
        minimum_weight: float,
        sign: float = 1.0,
    ) -> None:
        """Insert each half's images into its own accumulator, the two side by side.

        Parameters
        ----------
        n_a : int
            The first so many images belong to half a, the others to half b.
        weighed : ndarray, (3, n, n_points)
        sign : float
            -1 takes them out.
        """

        def one(h: int) -> None:
            rows = slice(0, n_a) if h == 0 else slice(n_a, None)
            accumulator = self._accumulators[h]
            accumulator.grow(points.k_max)
            self._backend.insert(
                accumulator.grid, PAD, points, self._box_size, weighed[:, rows], samples.rotation[rows],
                samples.shift[rows], samples.weight[rows], minimum_weight, sign * accumulator.gain,
            )  # fmt: skip

        self._backend.run_each([partial(one, 0), partial(one, 1)])

    def forget(self, keep: float) -> None:
        """Let everything gathered so far count ``keep`` times as much; 0 forgets it."""
        for accumulator in self._accumulators:
            accumulator.forget(keep)

    def solve(self, k_max: int) -> SolvedMap:
        """Solve for the map up to ``k_max`` and keep it as the latest."""
        self.latest = self.peek(k_max)
        self.fsc = self.latest.fsc
        return self.latest

    def take_up(self, solved: SolvedMap) -> None:
        """Keep a map of these sums as the latest."""
        self.latest, self.fsc = solved, solved.fsc

    def peek(self, k_max: int, *, published: bool = False) -> SolvedMap:
        """Solve for the map up to ``k_max`` and change nothing; ``published``: turned into the published frame."""
        sums = self._sums()
        if self.orientation.turned:
            box, at = self._box_size, self.orientation
            first, second = self._backend.run_each(
                [partial(symmetrised, self._backend, one, k_max, box, at, published=published) for one in sums]
            )
            sums = (first, second)
        solved = self._solver.solve(sums, k_max, self.fsc, self.latest)
        return self._agreed(solved)

    def plain(self, k_max: int, fsc: NDArray[np.float32]) -> SolvedMap:
        """Solve for the map up to ``k_max`` with nothing imposed, and change nothing; ``fsc`` is its prior."""
        return self._agreed(self._solver.solve(self._sums(), k_max, fsc, self.latest))

    def _agreed(self, solved: SolvedMap) -> SolvedMap:
        """Return a map with the FSC of rank 0: the band and the stages follow it, it must be the same everywhere."""
        return replace(solved, fsc=agreed(self._collective, solved.fsc))

    def turned(self, solved: SolvedMap) -> SolvedMap:
        """Return a map of the own frame as it is published."""
        if not self.orientation.turned:
            return solved
        volumes = (solved.volume, solved.half_a, solved.half_b)
        full, a, b = self._backend.run_each(
            [
                partial(turned_map, self._backend, v, PAD, solved.k_max, self._box_size, self.orientation)
                for v in volumes
            ]
        )
        return SolvedMap(full, a, b, solved.fsc, solved.k_max)

    def _sums(self) -> tuple[Accumulator, Accumulator]:
        """Return what all ranks have gathered together; what each has gathered stays where it is."""
        a, b = (accumulator.summed(self._collective) for accumulator in self._accumulators)
        return a, b

    def common_reference(self) -> Array:
        """Return the latest map: what both halves are posed against in ab initio."""
        return self._latest().volume

    def half_references(self, join_shells: int, solved: SolvedMap | None = None) -> tuple[Array, Array]:
        """Return each half's own map, the two sharing their lowest shells.

        Parameters
        ----------
        join_shells : int
            Up to here both take the full map: it keeps the halves in one frame, and says nothing about the
            resolution that their FSC is asked for.
        solved : SolvedMap, optional
            Another map than the latest.
        """
        latest = solved or self._latest()
        box = len(latest.volume)
        low = self._low_shells(box, join_shells)
        full, *halves = (self._backend.rfftn(v) for v in (latest.volume, latest.half_a, latest.half_b))
        a, b = (self._backend.irfftn(half + low * (full - half), box) for half in halves)
        return a, b

    def low_passed(self, shells: int, solved: SolvedMap | None = None) -> Array:
        """Return the latest map, or another one, with nothing beyond ``shells``."""
        latest = solved or self._latest()
        box = len(latest.volume)
        keep = self._low_shells(box, shells)
        return self._backend.irfftn(self._backend.rfftn(latest.volume) * keep, box)

    def _low_shells(self, box: int, shells: int) -> Array:
        """Return 1 for a transform's coefficients up to a shell, 0 beyond; the latest is kept on the device."""
        key = (box, shells)
        if self._low is None or self._low[0] != key:
            keep = (shell_index_rfft(box) <= shells).astype(np.float32)
            self._low = (key, self._backend.to_device(keep))
        return self._low[1]

    def cubes(self, volumes: tuple[Array, Array], k_max: int) -> tuple[Array, Array]:
        """Turn reference maps into cubes that slices of ``k_max`` can be taken from; one map gives one cube."""
        first = self._backend.cube(volumes[0], PAD, PAD * k_max + 2)
        if volumes[1] is volumes[0]:
            return first, first
        return first, self._backend.cube(volumes[1], PAD, PAD * k_max + 2)

    def _latest(self) -> SolvedMap:
        if self.latest is None:
            raise RuntimeError("a reference asked for before the first map was solved")
        return self.latest

    def state(self) -> tuple[dict[str, Array], dict[str, int | float | str]]:
        """Return what a checkpoint needs: arrays on the host, and scalars."""
        arrays = {f"accumulator_{h}": sums.grid for h, sums in zip(HALVES, self._sums(), strict=True)}
        scalars: dict[str, int | float | str] = {"gain": self._accumulators[0].gain, "level": self.level}
        if self.latest is not None:
            arrays |= {
                "map_full": self.latest.volume,
                "map_a": self.latest.half_a,
                "map_b": self.latest.half_b,
            }
            scalars["map_k_max"] = self.latest.k_max
        host = {name: self._backend.to_host(array) for name, array in arrays.items()}
        return {**host, "fsc": self.fsc}, scalars

    def restore(self, arrays: Mapping[str, Array], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        for i, h in enumerate(HALVES):
            grid = self._backend.to_device(arrays[f"accumulator_{h}"])
            if self._collective.rank:
                grid = self._backend.zeros(grid.shape)  # rank 0 has them
            self._accumulators[i].load(grid, float(scalars["gain"]), float(scalars["level"]))
        self.fsc = np.array(arrays["fsc"], np.float32)
        if "map_full" in arrays:
            full, a, b = (self._backend.to_device(arrays[name]) for name in ("map_full", "map_a", "map_b"))
            self.latest = SolvedMap(full, a, b, self.fsc, int(scalars["map_k_max"]))
