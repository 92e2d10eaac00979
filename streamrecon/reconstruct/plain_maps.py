"""What the sums of a reconstruction with an imposed symmetry give without it: the maps that poses are relaxed by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.extent import join_shells
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.mapping import SolvedMap


class PlainMaps:
    """Each half's map with nothing imposed: what tells poses apart that the symmetric map cannot.

    As with the maps that poses are found on, the halves share only the shells coarser than 40 A: that keeps both in the
    same one of the frames that the symmetry leaves open.
    """

    def __init__(self, backend: Backend, geometry: ImageGeometry, halves: HalfMaps) -> None:
        self._backend = backend
        self._geometry = geometry
        self._halves = halves
        self._fsc = halves.fsc
        self._volumes: tuple[Array, Array] | None = None
        self._cubes: tuple[int, tuple[Array, Array]] | None = None

    def begin(self, latest: SolvedMap, shells: int | None) -> None:
        """Take up the last map that was made without symmetry.

        Parameters
        ----------
        shells : int or None
            Of the common map, which both halves take. None: each half has a map of its own.
        """
        if shells is None:
            self._take_up(self._joined(latest))
        else:
            volume = self._halves.low_passed(shells, latest)
            self._take_up((volume, volume))
        self._fsc = latest.fsc

    def solve(self, k_max: int) -> SolvedMap:
        """Solve the sums without symmetry up to ``k_max``, take up each half's map, and return them."""
        solved = self._halves.plain(k_max, self._fsc)
        self._fsc = solved.fsc
        self._take_up(self._joined(solved))
        return solved

    def clear(self) -> None:
        """Let go of the maps: nothing is imposed."""
        self._volumes = self._cubes = None

    def cubes(self, k_max: int) -> tuple[Array, Array]:
        """Return the halves' maps as cubes that slices of ``k_max`` can be taken from."""
        if self._volumes is None:
            raise RuntimeError("poses relaxed before there was a map without symmetry")
        if self._cubes is None or self._cubes[0] != k_max:
            self._cubes = (k_max, self._halves.cubes(self._volumes, k_max))
        return self._cubes[1]

    def _joined(self, solved: SolvedMap) -> tuple[Array, Array]:
        shells = join_shells(self._geometry.box_size, self._geometry.pixel_size_angstrom)
        return self._halves.half_references(shells, solved)

    def _take_up(self, volumes: tuple[Array, Array]) -> None:
        self._volumes, self._cubes = volumes, None

    def state(self) -> dict[str, Array]:
        """Return arrays on the host for a checkpoint."""
        if self._volumes is None:
            return {}
        first, second = (self._backend.to_host(volume) for volume in self._volumes)
        return {"plain_a": first, "plain_b": second, "plain_fsc": self._fsc}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Take up what `state` gave; where a symmetry was imposed before there were such maps, begin from its map."""
        if "plain_a" in arrays:
            first, second = (self._backend.to_device(arrays[f"plain_{h}"]) for h in ("a", "b"))
            self._take_up((first, second))
            self._fsc = np.array(arrays["plain_fsc"], np.float32)
        elif self._halves.orientation.turned and self._halves.latest is not None:
            self.begin(self._halves.latest, None)
