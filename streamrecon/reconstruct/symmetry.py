"""The point group of a reconstruction: looked for in maps made without one, and imposed from then on.

Poses are first found without symmetry, since a wrong one would bend the first maps. The search for axes itself is
handed in: it belongs to what assesses maps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.geometry.orientation import Orientation
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.collective import ALONE, Collective, agreed
from streamrecon.reconstruct.mapping import SolvedMap

_GROWTH = 1.15  # in shells that are sure, before it is worth looking again
_LEAST_SHELLS = 6


class SymmetryFinder(Protocol):
    """Says which symmetry two half maps have that were made without any, and why it may be imposed or not."""

    def __call__(
        self, half_a: NDArray[np.floating], half_b: NDArray[np.floating], voxel_size_angstrom: float, asked: str
    ) -> tuple[Orientation, str]:
        """Return the orientation, its centre in voxels, "C1" if nothing may be imposed; and the reason."""


class Symmetry:
    """What is imposed, and what was tried.

    Parameters
    ----------
    asked : str
        "C1": never any. "auto": what the map shows. Else the group that is known.
    find : SymmetryFinder or None
        None: nothing is ever found.
    collective : Collective
        All processes take what the first one finds.

    Attributes
    ----------
    orientation : Orientation
    reason : str
        For people.
    tried_shells : int
        Shells that were sure when it was last looked for.
    """

    def __init__(self, asked: str, find: SymmetryFinder | None, collective: Collective = ALONE) -> None:
        self.asked = asked
        self._collective = collective
        self._find = find
        self.orientation = Orientation()
        self.reason = "" if asked == "C1" else "not looked for yet: the map must settle first"
        self.tried_shells = 0

    def due(self, sure_shells: int) -> bool:
        """Return whether to look now."""
        return (
            self.asked != "C1"
            and self._find is not None
            and not self.orientation.turned
            and sure_shells >= max(_LEAST_SHELLS, _GROWTH * self.tried_shells)
        )

    def look(self, backend: Backend, latest: SolvedMap, geometry: ImageGeometry, sure_shells: int) -> bool:
        """Look for axes in the latest map; return whether there is something to impose from now on."""
        if self._find is None:
            return False
        self.tried_shells = sure_shells
        larger = geometry.box_size / len(latest.half_a)  # pixels of the images a voxel of the map in use
        halves = (backend.to_host(latest.half_a), backend.to_host(latest.half_b))
        found, reason = self._find(*halves, larger * geometry.pixel_size_angstrom, self.asked)
        center = larger * np.asarray(found.center)
        words = json.dumps([found.group, reason, found.rotation.tolist(), center.tolist()]).encode()
        group, self.reason, *frame = json.loads(agreed(self._collective, np.frombuffer(words, np.uint8)).tobytes())
        self.orientation = Orientation(group, *(np.array(part, np.float64) for part in frame))
        return self.orientation.turned

    def forget(self, reason: str) -> None:
        """Impose nothing any more: the map it was found in was wrong."""
        self.orientation, self.reason, self.tried_shells = Orientation(), reason, 0

    def state(self) -> tuple[dict[str, Array], dict[str, int | float | str]]:
        """Return arrays and scalars for a checkpoint."""
        at = self.orientation
        arrays = {"symmetry_rotation": np.asarray(at.rotation), "symmetry_center": np.asarray(at.center)}
        scalars: dict[str, int | float | str] = {
            "symmetry_group": at.group,
            "symmetry_reason": self.reason,
            "symmetry_tried_shells": self.tried_shells,
        }
        return arrays, scalars

    def restore(self, arrays: Mapping[str, Array], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self.orientation = Orientation(
            str(scalars["symmetry_group"]),
            np.array(arrays["symmetry_rotation"], np.float64),
            np.array(arrays["symmetry_center"], np.float64),
        )
        self.reason, self.tried_shells = str(scalars["symmetry_reason"]), int(scalars["symmetry_tried_shells"])
