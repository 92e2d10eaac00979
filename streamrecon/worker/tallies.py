"""What the worker counts of every particle: views and defocus. Bounded.

In a checkpoint as long as no visit has changed a pose; after that counted anew from the pose table on resuming.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.directions import N_SIDE, angular_counts
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.rotation import rotation_from_euler
from streamrecon.io.pose_spool import PoseRows

DEFOCUS_EDGES_ANGSTROM = tuple(float(edge) for edge in range(0, 60_001, 1_000))

_ANGULAR, _DEFOCUS = "tally_angular", "tally_defocus"  # in a checkpoint


class Tallies:
    """Running counts over the particles of a session.

    Attributes
    ----------
    angular : ndarray, (12 n_side^2,) float64
        Views, HEALPix RING.
    defocus : ndarray, (60,) int64
        Mean of u and v in steps of 0.1 micrometre; what lies beyond counts in the first and the last.
    """

    def __init__(self) -> None:
        self.angular = np.zeros(12 * N_SIDE**2)
        self.defocus = np.zeros(len(DEFOCUS_EDGES_ANGSTROM) - 1, np.int64)

    @classmethod
    def from_rows(cls, chunks: Iterable[PoseRows], orientation: Orientation) -> Tallies:
        """Count what a pose table holds, views as the map is published."""
        tallies = cls()
        for rows in chunks:
            rotation = rotation_from_euler(rows.euler_degrees)
            tallies.add(orientation.publish(rotation, np.zeros((len(rotation), 2)))[0], rows.defocus_angstrom)
        return tallies

    def add(self, rotation: NDArray[np.floating], defocus_angstrom: NDArray[np.floating]) -> None:
        """Count n particles.

        Parameters
        ----------
        rotation : ndarray, (n, 3, 3)
        defocus_angstrom : ndarray, (n,)
            Mean of u and v; NaN where unknown.
        """
        self.angular += angular_counts(rotation)
        known = np.asarray(defocus_angstrom, np.float64)
        edges = np.asarray(DEFOCUS_EDGES_ANGSTROM)
        self.defocus += np.histogram(np.clip(known[np.isfinite(known)], edges[0], edges[-1]), edges)[0]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy as a checkpoint holds it."""
        return {_ANGULAR: self.angular.copy(), _DEFOCUS: self.defocus.copy()}

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Tallies | None:
        """Return those of a checkpoint; None if it has none (of an earlier release, too), or counted otherwise."""
        tallies = cls()
        angular, defocus = arrays.get(_ANGULAR), arrays.get(_DEFOCUS)
        if angular is None or angular.shape != tallies.angular.shape:
            return None
        if defocus is None or defocus.shape != tallies.defocus.shape:
            return None
        tallies.angular, tallies.defocus = np.array(angular, np.float64), np.array(defocus, np.int64)
        return tallies

    def copy(self) -> Tallies:
        """Return a copy that the next batch does not change."""
        out = Tallies()
        out.angular, out.defocus = self.angular.copy(), self.defocus.copy()
        return out
