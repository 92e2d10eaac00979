"""Every pose of a grid, for every image: scores, posteriors, best poses, and sums of images over them.

The full soft assignment of EM is over all cells, nothing dropped: the sum of shifted images that fall on one rotation
is a matrix product, weights x images, so that each rotation's slice is inserted once whatever the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from streamrecon.compute.backend import Array
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.geometry.quadrature import PoseCells
from streamrecon.inference.search import CellPosterior

VARIANTS = 4  # a pair's direction at +psi and -psi, its antipode at +psi and -psi
_DENSE_SHARE = 0.02  # of all weights: with more of them above the floor one dense product is faster
_FLOOR = 1e-9  # posterior weights below are zero to single precision in any sum of images


def cell_rotations(cells: PoseCells, psi: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the rotation of each cell's centre, (4, J, D, 3, 3) float32, in the order of `cell_scores`.

    Parameters
    ----------
    psi : ndarray, (J,), radians
        The positive in-plane angles, from `PolarGrid.psi`.
    """
    pairs = cells.n_pairs
    cosine, sine, zero, one = np.cos(psi), np.sin(psi), np.zeros_like(psi), np.ones_like(psi)
    turn = np.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    out = np.empty((VARIANTS, len(psi), pairs, 3, 3), np.float32)
    for variant in range(VARIANTS):
        directions = cells.directions[:pairs] if variant < 2 else cells.directions[pairs:]
        in_plane = turn if variant % 2 == 0 else turn.transpose(0, 2, 1)
        out[variant] = np.einsum("dab,jbc->jdac", directions, in_plane)
    return out


def cell_scores(posterior: CellPosterior, n_shifts: int) -> NDArray[np.float32]:
    """Return the log-likelihood ratio of every cell, (4, J, n, S, D) float32.

    Parameters
    ----------
    posterior : CellPosterior
        Of n images, on the host.
    """
    planes = np.asarray(posterior.planes)
    n, d = posterior.power_term.shape
    a, b, c, e = planes.reshape(4, planes.shape[1], n, n_shifts, d)
    power = np.asarray(posterior.power_term)[:, None]
    out = np.empty((VARIANTS, *a.shape), np.float32)
    total, difference = a + b - power, a - b - power
    plus, minus = c + e, c - e
    np.subtract(total, minus, out=out[0])
    np.add(total, minus, out=out[1])
    np.add(difference, plus, out=out[2])
    np.subtract(difference, plus, out=out[3])
    return out


@dataclass(frozen=True)
class Assignment:
    """To which cells images belong.

    Attributes
    ----------
    weight : ndarray, (4, J, n, S, D) float32
        Sums to 1 for each image.
    best : ndarray, (n, 4) intp
        Variant, in-plane angle, shift and direction of the likeliest cell.
    log_evidence : ndarray, (n,) float64, nats
        Log of the likelihood ratio averaged over all cells.
    effective_sample_size : ndarray, (n,) float64, cells
    """

    weight: NDArray[np.float32]
    best: NDArray[np.intp]
    log_evidence: NDArray[np.float64]
    effective_sample_size: NDArray[np.float64]


def assign(scores: NDArray[np.float32], *, soft: bool) -> Assignment:
    """Turn scores into weights: the posterior of each image, or all of it to the best cell.

    Parameters
    ----------
    scores : ndarray, (4, J, n, S, D) float32
        Overwritten.
    soft : bool
        False is projection matching: the likeliest pose only.
    """
    v, j, n, s, d = scores.shape
    top = scores.max(axis=(0, 1, 3, 4))
    best = np.array([np.unravel_index(int(scores[:, :, i].argmax()), (v, j, s, d)) for i in range(n)], np.intp)
    scores -= top[:, None, None]
    weight = np.exp(scores, out=scores)
    total = weight.sum(axis=(0, 1, 3, 4), dtype=np.float64)
    square = np.einsum("vjnsd,vjnsd->n", weight, weight, dtype=np.float64)
    if soft:
        weight *= (1.0 / total).astype(np.float32)[:, None, None]
    else:
        weight[...] = 0.0
        weight[best[:, 0], best[:, 1], np.arange(n), best[:, 2], best[:, 3]] = 1.0
    return Assignment(weight, best, top + np.log(total / (v * j * s * d)), total**2 / square)


class RotationSums:
    """Sums of weighed images by rotation, (3, 4 J D, n_points): cross re, cross im, power weight."""

    def __init__(self, cells: PoseCells, n_psi: int, points: HalfPlanePoints, box_size: int) -> None:
        n = VARIANTS * n_psi * cells.n_pairs
        self.sums = np.zeros((3, n, len(points)), np.float32)
        turns = cells.shifts.astype(np.float64) @ np.stack([points.kx, points.ky]) / box_size
        # conj of what a shift by t does to a slice: images go back to the centre
        self._back = np.exp(2j * np.pi * turns).astype(np.complex64)  # (S, n_points)

    def add(self, weight: NDArray[np.float32], weighed: Array) -> None:
        """Add images.

        Parameters
        ----------
        weight : ndarray, (4, J, n, S, D) float32
        weighed : ndarray, (3, n, n_points) float32
            From `Backend.weigh`, on the host.
        """
        v, j, n, s, d = weight.shape
        cross = (weighed[0] + 1j * weighed[1])[:, None] * self._back  # (n, S, n_points)
        moved = cross.reshape(n * s, -1)
        power = np.ascontiguousarray(weighed[2])
        flat = weight.reshape(v, j, n * s, d)
        significant = flat > _FLOOR
        if np.count_nonzero(significant) > _DENSE_SHARE * flat.size:
            turned = flat.transpose(0, 1, 3, 2)  # (4, J, D, n * S)
            shape = self.sums.shape[1:]
            self.sums[0] += np.matmul(turned, moved.real.copy()).reshape(shape)
            self.sums[1] += np.matmul(turned, moved.imag.copy()).reshape(shape)
            self.sums[2] += np.matmul(weight.sum(axis=3).transpose(0, 1, 3, 2), power).reshape(shape)
            return
        at = np.nonzero(significant)
        rotation = (at[0] * j + at[1]) * d + at[3]
        values = flat[at]
        used, row = np.unique(rotation, return_inverse=True)
        by_image_and_shift = scipy.sparse.csr_array((values, (row, at[2])), shape=(len(used), n * s))
        by_image = scipy.sparse.csr_array((values, (row, at[2] // s)), shape=(len(used), n))
        sums = by_image_and_shift @ moved
        self.sums[0, used] += sums.real
        self.sums[1, used] += sums.imag
        self.sums[2, used] += by_image @ power
