"""How a reconstruction's own frame lies to the one in which its maps are published."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamrecon.geometry.symmetry import symmetry_operators


def _unturned() -> NDArray[np.float64]:
    return np.eye(3)


@dataclass(frozen=True)
class Orientation:
    """A point group and where its axes lie: published(x) = own(rotation @ x + center).

    Attributes
    ----------
    group : str
        "C1": nothing is imposed, and the frames are the same.
    rotation : ndarray, (3, 3) float64
        From RELION's orientation of the group to the reconstruction's own frame.
    center : ndarray, (3,) float64, (x, y, z), pixels of the images
        Of the axes' crossing, from pixel box / 2.
    """

    group: str = "C1"
    rotation: NDArray[np.float64] = field(default_factory=_unturned)
    center: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    @property
    def turned(self) -> bool:
        """Whether the two frames differ."""
        return self.group != "C1"

    @property
    def operators(self) -> NDArray[np.float64]:
        """Return the group in the reconstruction's own frame, (order, 3, 3); the first is the identity."""
        return np.asarray(self.rotation @ symmetry_operators(self.group) @ self.rotation.T, np.float64)

    def publish(
        self, rotation: NDArray[np.floating], shift: NDArray[np.floating], unit: float = 1.0
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return poses found in the own frame as they are in the published one.

        Parameters
        ----------
        rotation : ndarray, (n, 3, 3)
        shift : ndarray, (n, 2)
        unit : float
            Of the shifts a pixel: the pixel size, if they are in angstrom.

        Notes
        -----
        With R k the point of the map's transform that an image shows at k, the published map has it at Q^T R k, and the
        phase of its moved centre c is k.(R^T c): R' = Q^T R, t' = t + (R^T c)_xy.
        """
        if not self.turned:
            return rotation, shift
        moved = unit * np.einsum("nji,j->ni", rotation, self.center)[:, :2]  # (n, 2)
        return (
            (self.rotation.T @ rotation).astype(rotation.dtype),
            (np.asarray(shift) + moved).astype(np.asarray(shift).dtype),
        )
