"""What the worker counts of every particle: views and defocus. Bounded, and part of every checkpoint.

Views are counted finely in the reconstruction's own frame, so that they can be told in any other without looking at
the particles again; a visit moves its particle's view.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import healpix
import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.directions import N_SIDE
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.rotation import rotation_from_euler
from streamrecon.io.pose_spool import PoseRows
from streamrecon.state.store_index import NO_VIEW

DEFOCUS_EDGES_ANGSTROM = tuple(float(edge) for edge in range(0, 60_001, 1_000))
# pixels of 0.9 degrees; their numbers fit two bytes, and all of one lie in the same pixel of those that are told
FINE_N_SIDE = 64

_ANGULAR, _DEFOCUS = "tally_views", "tally_defocus"  # in a checkpoint


def views_of(rotation: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Return the fine pixel of each view, HEALPix RING, (n,).

    Parameters
    ----------
    rotation : ndarray, (n, 3, 3)
        Image frame to volume frame.
    """
    beam = np.asarray(rotation, np.float64)[:, :, 2]
    return np.asarray(healpix.vec2pix(FINE_N_SIDE, beam[:, 0], beam[:, 1], beam[:, 2]), np.uint16)


@dataclass(frozen=True)
class Told:
    """The counts at one moment, as they are told to people.

    Attributes
    ----------
    angular : ndarray, (12 n_side^2,) float64
        Views in the frame of the published map, HEALPix RING.
    defocus : ndarray, (60,) int64
        Mean of u and v in steps of 0.1 micrometre; what lies beyond counts in the first and the last.
    """

    angular: NDArray[np.float64]
    defocus: NDArray[np.int64]


class Tallies:
    """Running counts over the particles of a session.

    Attributes
    ----------
    views : ndarray, (12 x 64^2,) int64
        In the reconstruction's own frame.
    defocus : ndarray, (60,) int64
        As in `Told`.
    """

    def __init__(self) -> None:
        self.views = np.zeros(12 * FINE_N_SIDE**2, np.int64)
        self.defocus = np.zeros(len(DEFOCUS_EDGES_ANGSTROM) - 1, np.int64)

    @classmethod
    def from_rows(cls, chunks: Iterable[PoseRows]) -> Tallies:
        """Count what a pose table holds."""
        tallies = cls()
        for rows in chunks:
            tallies.add(views_of(rotation_from_euler(rows.euler_degrees)), rows.defocus_angstrom)
        return tallies

    def add(self, views: NDArray[np.integer], defocus_angstrom: NDArray[np.floating]) -> None:
        """Count n particles.

        Parameters
        ----------
        views : ndarray, (n,)
            As `views_of` returns them.
        defocus_angstrom : ndarray, (n,)
            Mean of u and v; NaN where unknown.
        """
        np.add.at(self.views, views, 1)
        known = np.asarray(defocus_angstrom, np.float64)
        edges = np.asarray(DEFOCUS_EDGES_ANGSTROM)
        self.defocus += np.histogram(np.clip(known[np.isfinite(known)], edges[0], edges[-1]), edges)[0]

    def move(self, before: NDArray[np.integer], after: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Count n particles as other views than before, but for those whose view before is not known.

        Returns
        -------
        ndarray, (n,) uint16
            As what they are counted now.
        """
        known = before != NO_VIEW
        np.subtract.at(self.views, before[known], 1)
        np.add.at(self.views, after[known], 1)
        return np.where(known, after, NO_VIEW).astype(np.uint16)

    def told(self, orientation: Orientation) -> Told:
        """Return a copy, the views in the frame in which maps are published."""
        used = np.flatnonzero(self.views)
        # of a rotation only the last column counts, and only that of the result
        rotation = np.zeros((len(used), 3, 3))
        rotation[:, :, 2] = np.stack(healpix.pix2vec(FINE_N_SIDE, used), axis=-1)
        beam = np.asarray(orientation.publish(rotation, np.zeros((len(used), 2)))[0])[:, :, 2]
        pixel = np.asarray(healpix.vec2pix(N_SIDE, beam[:, 0], beam[:, 1], beam[:, 2]), np.int64)
        angular = np.bincount(pixel, weights=self.views[used], minlength=12 * N_SIDE**2)
        return Told(angular.astype(np.float64), self.defocus.copy())

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy as a checkpoint holds it."""
        return {_ANGULAR: self.views.copy(), _DEFOCUS: self.defocus.copy()}

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Tallies | None:
        """Return those of a checkpoint; None if it has none (of an earlier release, too), or counted otherwise."""
        tallies = cls()
        views, defocus = arrays.get(_ANGULAR), arrays.get(_DEFOCUS)
        if views is None or views.shape != tallies.views.shape:
            return None
        if defocus is None or defocus.shape != tallies.defocus.shape:
            return None
        tallies.views, tallies.defocus = np.array(views, np.int64), np.array(defocus, np.int64)
        return tallies
