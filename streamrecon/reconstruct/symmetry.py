"""The point group of a reconstruction: looked for in maps made without one, imposed from then on, and taken back.

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
from streamrecon.reconstruct.counters import from_prefix, with_prefix
from streamrecon.reconstruct.mapping import SolvedMap
from streamrecon.reconstruct.symmetry_doubts import SymmetryDoubts

_GROWTH = 1.15  # in shells that are sure, before it is worth looking again
_LEAST_SHELLS = 6
# Once taken back, copies must hold as much as of a particle that is symmetric beyond doubt; twice, and it is over.
_AGAIN_AT_LEAST, _MOST_TIMES = 0.95, 2


class SymmetryFinder(Protocol):
    """Says which symmetry two half maps have that were made without any, and why it may be imposed or not."""

    def __call__(
        self,
        half_a: NDArray[np.floating],
        half_b: NDArray[np.floating],
        voxel_size_angstrom: float,
        asked: str,
        *,
        at_least: float = 0.0,
    ) -> tuple[Orientation | None, str]:
        """Return the orientation, its centre in voxels, "C1" if nothing may be imposed; and the reason.

        None: the maps are too coarse to say, which costs little to find out.

        ``at_least``: what copies must hold of what the halves share, where that is more than usual.
        """


class Symmetry:
    """What is imposed, what was tried, and what the images say to it.

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
    tried_shells : int
        Shells that were sure when it was last looked for; fewer if they were too few to say.
    doubts : SymmetryDoubts
        What new images say to what is imposed.
    contradicted : bool
        Whether they contradict a group that was asked for, and so is imposed all the same.
    taken_back : str
        The group that was found last and turned out not to be there; "": none.
    """

    def __init__(self, asked: str, find: SymmetryFinder | None, collective: Collective = ALONE) -> None:
        self.asked = asked
        self._collective = collective
        self._find = find
        self.orientation = Orientation()
        self._why = "" if asked == "C1" else "not looked for yet: the halves must agree further first"
        self.tried_shells = 0
        self.doubts = SymmetryDoubts()
        self.contradicted = False
        self.taken_back = ""
        self._times = 0

    @property
    def reason(self) -> str:
        """Return, for people, why something is imposed or nothing is."""
        return f"{self._why}; but {self.doubts.text}" if self.contradicted else self._why

    def due(self, sure_shells: int) -> bool:
        """Return whether to look now."""
        return (
            self.asked != "C1"
            and self._find is not None
            and not self.orientation.turned
            and self._times < _MOST_TIMES
            and sure_shells >= max(_LEAST_SHELLS, _GROWTH * self.tried_shells)
        )

    def look(self, backend: Backend, latest: SolvedMap, geometry: ImageGeometry, sure_shells: int) -> bool:
        """Look for axes in the latest map; return whether there is something to impose from now on."""
        if self._find is None:
            return False
        self.tried_shells = sure_shells
        larger = geometry.box_size / len(latest.half_a)  # pixels of the images a voxel of the map in use
        halves = (backend.to_host(latest.half_a), backend.to_host(latest.half_b))
        at_least = _AGAIN_AT_LEAST if self._times else 0.0
        found, reason = self._find(*halves, larger * geometry.pixel_size_angstrom, self.asked, at_least=at_least)
        coarse, found = found is None, found or Orientation()
        center = larger * np.asarray(found.center)
        words = json.dumps([coarse, found.group, reason, found.rotation.tolist(), center.tolist()]).encode()
        words = agreed(self._collective, np.frombuffer(words, np.uint8)).tobytes()
        coarse, group, self._why, *frame = json.loads(words)
        if coarse:
            self.tried_shells = int(sure_shells / _GROWTH)  # again with the next shell
        self.orientation = Orientation(group, *(np.array(part, np.float64) for part in frame))
        return self.orientation.turned

    def learn_from(self, other: Symmetry) -> None:
        """Remember what another start of the same session had to take back."""
        self.taken_back, self._times = other.taken_back, other._times

    def judge(self, sure_shells: int) -> bool:
        """Decide by what new images have said whether what is imposed is taken back; return whether it is.

        A group that was asked for stays: `reason` says that the images contradict it, as long as they do.
        """
        if self.asked != "auto":
            self.contradicted = self.doubts.proven or (self.contradicted and not self.doubts.dispelled)
            return False
        if not self.doubts.proven:
            return False
        self.taken_back, self._times = self.orientation.group, self._times + 1
        self.forget(f"{self.orientation.group} is taken back: {self.doubts.text}", sure_shells)
        return True

    def forget(self, reason: str, tried_shells: int = 0) -> None:
        """Impose nothing any more; it is looked for again once more shells are sure than ``tried_shells``."""
        self.orientation, self._why, self.tried_shells = Orientation(), reason, tried_shells
        self.doubts, self.contradicted = SymmetryDoubts(), False

    def state(self) -> tuple[dict[str, Array], dict[str, int | float | str]]:
        """Return arrays and scalars for a checkpoint."""
        at = self.orientation
        arrays = {"symmetry_rotation": np.asarray(at.rotation), "symmetry_center": np.asarray(at.center)}
        scalars: dict[str, int | float | str] = {
            "symmetry_group": at.group,
            "symmetry_reason": self._why,
            "symmetry_tried_shells": self.tried_shells,
            "symmetry_contradicted": int(self.contradicted),
            "symmetry_taken_back": self.taken_back,
            "symmetry_times": self._times,
            **with_prefix("symmetry_doubts_", self.doubts),
        }
        return arrays, scalars

    def restore(self, arrays: Mapping[str, Array], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self.orientation = Orientation(
            str(scalars["symmetry_group"]),
            np.array(arrays["symmetry_rotation"], np.float64),
            np.array(arrays["symmetry_center"], np.float64),
        )
        self._why, self.tried_shells = str(scalars["symmetry_reason"]), int(scalars["symmetry_tried_shells"])
        if "symmetry_times" not in scalars:
            return  # a checkpoint from before anything was ever taken back
        self.contradicted = bool(scalars["symmetry_contradicted"])
        self.taken_back, self._times = str(scalars["symmetry_taken_back"]), int(scalars["symmetry_times"])
        self.doubts = from_prefix(SymmetryDoubts, "symmetry_doubts_", scalars)
