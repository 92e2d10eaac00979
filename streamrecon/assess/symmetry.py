"""Symmetry of a map: found, brought into RELION's orientation, and imposed.

A map is correlated with itself, turned. Correlations are taken per unit of power in every shell from the third on, and
relative to what the noise leaves of them: 1 is "as like its turned self as its two halves are alike".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.optimize
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from streamrecon.assess.band import PAD, Band
from streamrecon.compute.cpu import CpuBackend
from streamrecon.geometry.symmetry import normalised_group, symmetry_operators

_FIRST_SHELL = 3  # the lowest say little but how long and how wide the particle is
_LEAST_POWER = 0.2


@dataclass(frozen=True)
class Placement:
    """Where a symmetric map's axes lie: standard(x) = map(rotation @ x + centre).

    Attributes
    ----------
    rotation : ndarray, (3, 3) float64
        From RELION's orientation to the map's.
    center : ndarray, (3,) float64, (x, y, z), voxels
        Of the axes' crossing, from voxel box / 2.
    """

    rotation: NDArray[np.float64]
    center: NDArray[np.float64]


class SelfCorrelation:
    """A map at low resolution, ready to be correlated with itself.

    Parameters
    ----------
    volume : ndarray, (box,)*3
    shells : int
        The finest shell in use.
    fsc : ndarray, optional
        Between the map's halves: how much of each shell is signal. Without it, all.
    """

    def __init__(self, volume: NDArray[np.floating], shells: int, fsc: NDArray[np.floating] | None = None) -> None:
        shells = min(shells, len(volume) // 2 - 2)
        self.band = Band(np.asarray(volume, np.float32), shells)
        self.cube = CpuBackend(1).cube(np.asarray(volume, np.float32), PAD, PAD * shells + 2)
        self.box = len(volume)
        shell = self.band.shell
        signal = np.ones(shells + 1)
        if fsc is not None:
            known = np.clip(np.asarray(fsc, np.float64)[: shells + 1], 0.0, 1.0)
            signal[:] = 0.0
            # of the mean of both halves, which is what the map is
            signal[: len(known)] = 2 * known / (1 + known)
        use = (shell >= _FIRST_SHELL) & (signal[shell] >= _LEAST_POWER)
        self.band.points, self.band.values = self.band.points[use], self.band.values[use]
        self.band.weight, self.band.shell = self.band.weight[use], shell[use]
        self.ceiling = float(signal[self.band.shell].mean()) if use.any() else 1.0

    def relative(self, rotation: NDArray[np.floating], center: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how like itself the map is when turned about a centre, relative to its ceiling, (n,).

        Parameters
        ----------
        rotation : ndarray, (n, 3, 3)
        center : ndarray, (3,), voxels
        """
        if not len(self.band.points):
            return np.zeros(len(rotation))
        turned = self.band.sample(self.cube, rotation) * self.band.weight
        here = self.band.values * self.band.weight
        # both are seen from the centre c, so a turned point k brings a phase of k.c - (R k).c = k.(c - R^T c)
        c = np.asarray(center, np.float64)
        lag = (2 * np.pi / self.box * (c - c @ np.asarray(rotation, np.float64))).astype(np.float32)  # (n, 3)
        angle = lag @ self.band.points.T  # (n, m)
        phase = np.empty(angle.shape, np.complex64)
        np.cos(angle, out=phase.real)
        np.sin(-angle, out=phase.imag)
        cross = (turned * phase) @ np.conj(here)
        norm = np.linalg.norm(turned, axis=1) * np.linalg.norm(here)
        return np.asarray(cross.real / np.maximum(norm, 1e-30) / self.ceiling, np.float64)

    def refined(self, operators: NDArray[np.floating], start: Placement) -> Placement:
        """Return the placement at which a group's operators, standard orientation, fit best."""
        turn_unit, shift_unit = 0.5 / self.band.shells, 0.1 * self.box / self.band.shells

        def placed(p: NDArray[np.float64]) -> Placement:
            turn = Rotation.from_rotvec(p[:3] * turn_unit).as_matrix() @ start.rotation
            return Placement(turn, start.center + p[3:] * shift_unit)

        def loss(p: NDArray[np.float64]) -> float:
            at = placed(p)
            return -float(self.relative(at.rotation @ operators @ at.rotation.T, at.center).mean())

        best = scipy.optimize.minimize(loss, np.zeros(6), method="Powell", options={"xtol": 1e-2, "ftol": 1e-5})
        return placed(best.x)


def impose_symmetry(
    volume: NDArray[np.floating], group: str, placement: Placement | None = None
) -> NDArray[np.float32]:
    """Average a map over a group, (box,)*3 float32, in RELION's orientation.

    Parameters
    ----------
    volume : ndarray, (box,)*3
    group : str
    placement : Placement, optional
        Where the axes lie; left out, they lie in RELION's orientation already.

    Notes
    -----
    The map's padded transform is read once for each operator, and the mean transformed back: V(x) = mean_g map(Q g x
    + c). Group "C1" only turns and moves the map.
    """
    box = len(volume)
    at = placement or Placement(np.eye(3), np.zeros(3))
    limit = box // 2 - 2
    cube = CpuBackend(1).cube(np.asarray(volume, np.float32), PAD, PAD * limit + 2)
    band = Band(np.zeros((box,) * 3, np.float32), limit)
    points = band.points.astype(np.float64)
    total = np.zeros(len(points), np.complex128)
    operators = symmetry_operators(normalised_group(group))
    for operator in operators:
        turn = at.rotation @ operator
        phase = np.exp(2j * np.pi / box * ((points @ turn.T) @ at.center))
        total += band.sample(cube, turn[None])[0] * phase
    transform = np.zeros((box, box, box // 2 + 1), np.complex64)
    x, y, z = (band.points[:, i].astype(int) for i in range(3))
    transform[z, y, x] = total / len(operators)
    # the mean density, which no band holds
    transform[0, 0, 0] = float(np.sum(volume, dtype=np.float64))
    return np.asarray(scipy.fft.fftshift(scipy.fft.irfftn(transform, s=(box,) * 3)), np.float32)
