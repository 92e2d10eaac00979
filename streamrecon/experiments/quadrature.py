"""The full pose grid at a band, evaluated in whole, then refined where the posterior is: the reference of sampling.

Every pose of the grid is scored on the whole band, nothing pruned; slices are taken once a rotation and shared by all
images and shifts, so that a chunk of rotations is one matrix product. The posterior may be narrower than a cell of that
grid: cells whose centre is within reach of the best are cut into 32 (a HEALPix pixel into its four, an in-plane
interval into its two, a square of shifts into its four), and those again, which tiles the same poses without overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import healpix
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from streamrecon.compute.backend import Array
from streamrecon.compute.cpu_kernels import slices
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.geometry.quadrature import PoseCells
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.half_maps import PAD

_REACH_NATS = (60.0, 40.0, 20.0)  # of the best: which cells are cut, in each refinement
_MOST_CELLS = 8192  # of an image that are cut at once, the best of them
_CHUNK = 2048  # rotations whose slices are held at once
_CHILDREN = 32


@dataclass(frozen=True)
class FullGrid:
    """Cells that tile all poses: directions x in-plane angles x shifts.

    Attributes
    ----------
    n_side : int, a power of two
        HEALPix, nested scheme: 12 n_side^2 directions.
    n_psi : int
    shifts : ndarray, (n_shifts, 2) float32, pixels
        Middles of squares.
    shift_step : float, pixels
        Side of a square.
    """

    n_side: int
    n_psi: int
    shifts: NDArray[np.float32]
    shift_step: float

    @property
    def n_rotations(self) -> int:
        """Return the number of rotations."""
        return 12 * self.n_side**2 * self.n_psi

    @property
    def n_poses(self) -> int:
        """Return the number of poses."""
        return self.n_rotations * len(self.shifts)


def full_grid(geometry: ImageGeometry, cells: PoseCells, k_max: int, step: float) -> FullGrid:
    """Return a grid whose neighbours differ by at most ``step`` resolution elements at the particle's rim and in shift.

    Parameters
    ----------
    cells : PoseCells
        Of the search: the same shifts are covered.
    """
    turn = step / (k_max * geometry.particle_radius / geometry.box_size)
    n_side = 1
    while np.sqrt(np.pi / 3) / n_side > turn:  # the side of a pixel
        n_side *= 2
    parts = max(1, int(np.ceil(cells.shift_step * k_max / (step * geometry.box_size))))
    offset = ((np.arange(parts) + 0.5) / parts - 0.5) * cells.shift_step
    x, y = np.meshgrid(offset, offset)
    within = np.stack([x.ravel(), y.ravel()], axis=1)
    shifts = (cells.shifts[:, None] + within).reshape(-1, 2).astype(np.float32)
    return FullGrid(n_side, int(np.ceil(2 * np.pi / turn)), shifts, cells.shift_step / parts)


@dataclass(frozen=True)
class FullPosterior:
    """The posterior of one image over a grid.

    Attributes
    ----------
    rotation : ndarray, (m, 3, 3) float32
    shift : ndarray, (m, 2) float32, pixels
    weight : ndarray, (m,) float64
        Sums to 1.
    log_evidence : float, nats
        Log of the likelihood ratio averaged over all poses.
    base_sample_size : float
        Cells of the unrefined grid that share the posterior, (sum p)^2 / sum p^2.
    """

    rotation: NDArray[np.float32]
    shift: NDArray[np.float32]
    weight: NDArray[np.float64]
    log_evidence: float
    base_sample_size: float = float("nan")


@dataclass(frozen=True)
class _Cells:
    """Cells of one image, by where they are: all arrays have m rows."""

    n_side: int
    n_psi: int
    shift_step: float
    pixel: NDArray[np.int64]
    angle: NDArray[np.int64]
    shift: NDArray[np.float32]

    def rotation(self, turn: NDArray[np.floating] | None) -> NDArray[np.float32]:
        theta, phi = healpix.pix2ang(self.n_side, self.pixel, nest=True)
        psi = (self.angle + 0.5) * (2 * np.pi / self.n_psi)
        return _turned(Rotation.from_euler("ZYZ", np.stack([phi, theta, psi], axis=1)).as_matrix(), turn)

    def take(self, rows: NDArray[np.bool_]) -> _Cells:
        return replace(self, pixel=self.pixel[rows], angle=self.angle[rows], shift=self.shift[rows])

    def children(self) -> _Cells:
        pixel = (4 * self.pixel[:, None] + np.arange(4)).reshape(-1, 4, 1, 1)
        angle = (2 * self.angle[:, None] + np.arange(2)).reshape(-1, 1, 2, 1)
        quarter = 0.25 * self.shift_step * np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)], np.float32)
        shift = (self.shift[:, None] + quarter).reshape(-1, 1, 1, 4, 2)
        shape = (len(pixel), 4, 2, 4)
        return _Cells(
            2 * self.n_side, 2 * self.n_psi, self.shift_step / 2,
            np.broadcast_to(pixel, shape).reshape(-1), np.broadcast_to(angle, shape).reshape(-1),
            np.broadcast_to(shift, (*shape, 2)).reshape(-1, 2),
        )  # fmt: skip


def _turned(rotation: NDArray[np.floating], turn: NDArray[np.floating] | None) -> NDArray[np.float32]:
    return np.asarray(rotation if turn is None else turn @ rotation, np.float32)


def evaluate(
    grid: FullGrid,
    cube: Array,
    points: HalfPlanePoints,
    box_size: int,
    weighed: NDArray[np.float32],
    turn: NDArray[np.floating] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[FullPosterior] | None:
    """Evaluate every pose of the grid for every image, and refine.

    Parameters
    ----------
    cube : ndarray, (z, y, x, 2)
        On the host.
    weighed : ndarray, (3, n, n_points) float32
    turn : ndarray, (3, 3), optional
        By which all rotations are turned: another grid, as good.
    stop : callable
        Asked between chunks; None is returned if it says so.
    """
    n, n_shifts, n_points = weighed.shape[1], len(grid.shifts), len(points)
    turns = grid.shifts.astype(np.float64) @ np.stack([points.kx, points.ky]) / box_size
    back = np.exp(2j * np.pi * turns).astype(np.complex64)  # (n_shifts, n_points)
    moved = ((weighed[0] + 1j * weighed[1])[:, None] * back).reshape(n * n_shifts, n_points)
    cross = np.concatenate([moved.real, moved.imag], axis=1)  # Re(conj(cross) slice): re re + im im
    kept: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]] = []
    best = np.full(n, -np.inf, np.float32)
    for first in range(0, grid.n_rotations, _CHUNK):
        if stop():
            return None
        number = np.arange(first, min(first + _CHUNK, grid.n_rotations))
        some = _Cells(grid.n_side, grid.n_psi, 0.0, number // grid.n_psi, number % grid.n_psi, grid.shifts[:0])
        real, imaginary = np.empty((2, len(number), n_points), np.float32)
        slices.extract_slices(cube, PAD, points.kx, points.ky, some.rotation(turn), real, imaginary)
        scores = (cross @ np.concatenate([real, imaginary], axis=1).T).reshape(n, n_shifts, -1)
        scores -= (weighed[2] @ (real**2 + imaginary**2).T)[:, None]
        np.maximum(best, scores.max(axis=(1, 2)), out=best)
        image, shift, row = np.nonzero(scores > (best - np.float32(_REACH_NATS[0]))[:, None, None])
        kept.append((image, number[row], shift, scores[image, shift, row]))
    image, number, shift, score = (np.concatenate(column) for column in zip(*kept, strict=True))
    found = []
    for i in range(n):
        of = (image == i) & (score > best[i] - _REACH_NATS[0])
        cells = _Cells(
            grid.n_side, grid.n_psi, grid.shift_step, number[of] // grid.n_psi, number[of] % grid.n_psi,
            grid.shifts[shift[of]],
        )  # fmt: skip
        found.append(_refined(cells, score[of], grid.n_poses, cube, points, box_size, weighed[:, i], turn))
    return found


def _refined(
    cells: _Cells,
    score: NDArray[np.float32],
    n_poses: int,
    cube: Array,
    points: HalfPlanePoints,
    box_size: int,
    weighed: NDArray[np.float32],
    turn: NDArray[np.floating] | None,
) -> FullPosterior:
    """Cut the cells near the best, level by level; those that are not cut count with their whole volume."""
    share = np.exp(score.astype(np.float64) - score.max())
    base = float(share.sum() ** 2 / (share**2).sum())
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]] = []
    log_volume = -np.log(n_poses)
    for reach in _REACH_NATS:
        least = np.partition(score, -_MOST_CELLS)[-_MOST_CELLS] if len(score) > _MOST_CELLS else score.min()
        cut = score >= max(float(least), float(score.max()) - reach)
        rest = cells.take(~cut)
        parts.append((rest.rotation(turn), rest.shift, score[~cut].astype(np.float64) + log_volume))
        cells = cells.take(cut).children()
        log_volume -= np.log(_CHILDREN)
        scored = np.empty((1, len(cells.pixel)), np.float32)
        slices.score_poses(
            cube, PAD, points.kx, points.ky, box_size, weighed[0, None], weighed[1, None], weighed[2, None],
            cells.rotation(turn)[None], cells.shift[None], scored,
        )  # fmt: skip
        score = scored[0]
    parts.append((cells.rotation(turn), cells.shift, score.astype(np.float64) + log_volume))
    rotation, shift, mass = (np.concatenate(column) for column in zip(*parts, strict=True))
    top = float(mass.max())
    weight = np.exp(mass - top)
    total = float(weight.sum())
    return FullPosterior(rotation, shift, weight / total, top + np.log(total), base)
