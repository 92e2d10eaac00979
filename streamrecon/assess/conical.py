"""Conical FSC: how far apart the directions of Fourier space are in what they hold, as one ratio of areas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.assess.directions import pixel_directions
from streamrecon.assess.fsc_curves import THRESHOLD

HALF_ANGLE_DEGREES = 20.0
# areas grow with the number of particles: ratios of one session are told as at this many
REFERENCE_PARTICLES = 5_000
_AXES_N_SIDE = 4
_BLOCK = 20_000


@dataclass(frozen=True)
class ConicalFsc:
    """FSC in cones around axes.

    Attributes
    ----------
    axis : ndarray, (n, 3) float64, (x, y, z)
    fsc : ndarray, (n, n_shells) float32
    """

    axis: NDArray[np.float64]
    fsc: NDArray[np.float32]


def conical_fsc(
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    mask: NDArray[np.floating] | None = None,
    *,
    half_angle_degrees: float = HALF_ANGLE_DEGREES,
    most_shells: int | None = None,
) -> ConicalFsc:
    """Correlate two half maps inside cones around 96 axes (with their opposites).

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
    mask : ndarray, (box,)*3, optional
    half_angle_degrees : float
    most_shells : int, optional
        Only shells below this many.
    """
    box = len(half_a)
    n_shells = min(box // 2 + 1, most_shells or box)
    a, b = (scipy.fft.rfftn(np.asarray(v if mask is None else v * mask, np.float32)) for v in (half_a, half_b))
    directions = pixel_directions(_AXES_N_SIDE)
    axes = directions[(directions[:, 2] > 0) | ((np.abs(directions[:, 2]) < 1e-9) & (directions[:, 1] > -1e-9))]
    axes = _one_of_each_pair(axes).astype(np.float32)
    cosine = np.float32(np.cos(np.deg2rad(half_angle_degrees)))
    frequency = np.fft.fftfreq(box, 1 / box).astype(np.int64)
    sums = np.zeros((3, n_shells, len(axes)))
    for iz, kz in enumerate(frequency):
        if abs(kz) >= n_shells:
            continue
        ky, kx = np.meshgrid(frequency, np.arange(box // 2 + 1), indexing="ij")
        radius = np.sqrt(kx**2 + ky**2 + kz**2)
        shell = np.rint(radius).astype(np.int64)
        use = (shell < n_shells) & (shell > 0)
        shell_used = shell[use]
        points = np.stack([kx[use], ky[use], np.full(use.sum(), kz)], axis=1).astype(np.float32)
        points /= radius[use].astype(np.float32)[:, None]
        va, vb = a[iz][use], b[iz][use]
        values = np.stack([(va * np.conj(vb)).real, np.abs(va) ** 2, np.abs(vb) ** 2])
        for start in range(0, len(points), _BLOCK):
            part = slice(start, start + _BLOCK)
            inside = np.abs(points[part] @ axes.T) >= cosine  # (p, n_axes)
            point, axis = np.nonzero(inside)
            flat = shell_used[part][point] * len(axes) + axis
            for row, value in zip(sums, values, strict=True):
                row += np.bincount(flat, weights=value[part][point], minlength=row.size)[: row.size].reshape(row.shape)
    cross, power_a, power_b = sums
    power = np.sqrt(power_a * power_b)
    # near the origin a cone may hold no point of a shell: it takes what all cones have there
    whole = cross.sum(axis=1) / np.maximum(np.sqrt(power_a.sum(axis=1) * power_b.sum(axis=1)), 1e-30)
    fsc = np.where(power > 0, cross / np.maximum(power, 1e-30), whole[:, None]).T
    fsc[:, 0] = 1.0
    return ConicalFsc(axes.astype(np.float64), np.clip(fsc, -1, 1).astype(np.float32))


def area_ratio(
    conical: ConicalFsc, particles: int | None = None, *, reference_particles: int = REFERENCE_PARTICLES
) -> float | None:
    """Return the smallest area under a cone's curve over the largest, 0 to 1; None where no cone holds anything.

    Parameters
    ----------
    conical : ConicalFsc
    particles : int, optional
        That the halves hold together. With it, and more than ``reference_particles``, each cone's signal-to-noise
        ratio is first taken back to that many.
    reference_particles : int

    Notes
    -----
    A curve counts up to the first of two shells in a row below 0.143. Below 0.5 the map is said to be smeared in some
    direction. With N particles SSNR = FSC / (1 - FSC) grows as N, and areas grow unequally with it: the ratio of one
    specimen would change along a session in which nothing but N does. So it is told at equal counts, N_0 = 5,000:
    SSNR N_0 / N, and back to FSC.

    References
    ----------
    Tan et al. 2017, Nat. Methods 14, 793 (directional FSC); the ratio of areas is that of cryoSPARC's Orientation
    Diagnostics (cFAR).
    """
    fsc = np.clip(np.asarray(conical.fsc, np.float64), 0.0, 0.99999)
    if particles is not None and particles > reference_particles:
        ssnr = fsc / (1.0 - fsc) * (reference_particles / particles)
        fsc = ssnr / (1.0 + ssnr)
    below = fsc[:, 1:] < THRESHOLD
    below[:, :-1] &= below[:, 1:]  # one shell of a cone has few points, and may fall by chance
    alive = np.cumsum(below, axis=1) == 0
    area = (fsc[:, 1:] * alive).sum(axis=1)
    largest = float(area.max())
    return float(area.min()) / largest if largest > 0 else None


def _one_of_each_pair(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop the opposite of an axis that is there already (those on the equator come with theirs)."""
    keep: list[int] = []
    for i, axis in enumerate(axes):
        if not keep or np.abs(axes[keep] @ axis).max() < 1 - 1e-9:
            keep.append(i)
    return axes[keep]
