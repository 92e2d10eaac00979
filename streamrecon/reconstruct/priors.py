"""What is known of a map beforehand, beside its FSC: smoothness, sparsity, no negative density, flat solvent.

The data's term is taken as diagonal in Fourier space with the mean weight of each shell: sum_k c_k |V_k - V^_k|^2, V^
the solution without, or before, the prior.

References
----------
Brubaker, Punjani and Fleet 2015, CVPR, section 3 and supplement (exponential and CAR priors of density).
Besag 1974, J. R. Stat. Soc. B 36, 192 (conditional autoregressions).
Boyd et al. 2011, Found. Trends Mach. Learn. 3, 1 (the alternating direction method of multipliers).
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.shells import shell_index_rfft, shell_sums

_ITERATIONS = 30
_NEIGHBOURS = 26
_SMOOTHING = 15.0  # angstrom: what is left of the map to tell particle from solvent by
_SOLVENT_LEVEL = 0.15  # of the smoothed map's highest density
_SOLVENT_MARGIN = 8.0  # angstrom that the mask reaches beyond, and falls off over


def neighbour_transform(box: int) -> NDArray[np.float64]:
    """Return the transform of "the mean of a voxel's 26 neighbours" at rfftn's frequencies, (box, box, box//2+1)."""
    full = np.cos(2 * np.pi * np.arange(box) / box)
    half = full[: box // 2 + 1]
    triple = (1 + 2 * full[:, None, None]) * (1 + 2 * full[None, :, None]) * (1 + 2 * half[None, None, :])
    return np.asarray((triple - 1.0) / _NEIGHBOURS)


def car_regulariser(power: NDArray[np.floating], box: int, n_shells: int) -> NDArray[np.float64]:
    """Return the CAR prior's precision of a Fourier coefficient by shell, (n_shells,).

    Parameters
    ----------
    power : ndarray, (box, box, box // 2 + 1)
        |V|^2 of the latest map, by whose energy the prior's strength is chosen.
    box : int
        Of the map.

    Notes
    -----
    Each voxel is normal around the mean of its neighbours: precision tau (1 - w_k) of coefficient k, with w the
    transform of that mean. tau is what makes the map's own energy the expected one, sum tau (1 - w_k) |V_k|^2 =
    number of coefficients; 1 - w_k is averaged over shells, which w follows closely.
    """
    roughness = 1.0 - neighbour_transform(box)
    shells = shell_index_rfft(box)
    inside = (shells > 0) & (shells < min(n_shells, box // 2))
    tau = np.count_nonzero(inside) / max(float((roughness * power)[inside].sum()), 1e-30)
    counts = np.maximum(shell_sums(np.ones(shells.shape), shells, n_shells), 1.0)
    by_shell = shell_sums(roughness, shells, n_shells) / counts
    # a map that ends before the grid does: the last shell it has serves the rest
    last = min(n_shells, box // 2) - 1
    by_shell[last + 1 :] = by_shell[last]
    return np.asarray(tau * by_shell)


def constrained(
    backend: Backend,
    volume: Array,
    curvature: NDArray[np.floating],
    rate: float,
    *,
    non_negative: bool = True,
) -> Array:
    """Return the map that fits a solution best under an exponential prior of density, or without negative density.

    Parameters
    ----------
    volume : ndarray, (box, box, box)
        The solution V^.
    curvature : ndarray, (n_shells,)
        c of a Fourier coefficient by shell; shells beyond are free.
    rate : float
        lambda of p(v) = lambda exp(-lambda v), nats a unit of density; 0 is no prior.
    non_negative : bool
        The exponential prior's own range; without it densities are drawn towards zero from both sides.

    Notes
    -----
    Minimises sum_k c_k |V_k - V^_k|^2 + rate sum_x |v_x|, over all k of the full transform. Alternating directions: a
    division in Fourier space, a soft threshold in real space.
    """
    box = len(volume)
    shells = shell_index_rfft(box)
    # DC is in no shell of the likelihood, and the density's level must not drift
    per_shell = np.zeros(int(shells.max()) + 1)
    n = min(len(curvature), len(per_shell))
    per_shell[:n] = curvature[:n]
    per_shell[0] = per_shell[1]
    middle = float(np.median(per_shell[1:n][per_shell[1:n] > 0]))
    weight = backend.to_device(per_shell[shells].astype(np.float32))
    target = weight * backend.rfftn(volume)
    threshold = rate / (2.0 * box**3 * middle)
    split, dual = volume, 0.0 * volume
    for _ in range(_ITERATIONS):
        nearest = backend.irfftn((target + middle * backend.rfftn(split - dual)) / (weight + middle), box)
        wanted = nearest + dual
        split = backend.shrink(wanted, threshold, non_negative=non_negative)
        dual = wanted - split
    return split


def exponential_rate(volume: NDArray[np.floating]) -> float:
    """Return the most likely rate of an exponential density: one over the mean of what is positive."""
    positive = volume[volume > 0]
    return float(1.0 / positive.mean()) if positive.size else 0.0


def solvent_mask(volume: NDArray[np.floating], voxel_size_angstrom: float) -> NDArray[np.float32]:
    """Return a soft mask of the particle, (box,)*3 float32: what is dense once smoothed, and a margin around it."""
    smooth = scipy.ndimage.gaussian_filter(np.asarray(volume, np.float64), _SMOOTHING / (2.355 * voxel_size_angstrom))
    dense = smooth > _SOLVENT_LEVEL * smooth.max()
    margin = _SOLVENT_MARGIN / voxel_size_angstrom
    beyond = scipy.ndimage.distance_transform_edt(~dense) - margin
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(beyond / margin, 0.0, 1.0)), np.float32)
