"""Local resolution: the FSC of two half maps inside a soft window that moves over the particle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

from streamrecon.assess.fsc_curves import corrected_fsc
from streamrecon.fourier.shells import first_shell_below, resolution_from_fsc, shell_index_rfft

_BATCH = 64
_MOST_WINDOWS = 4000


def local_resolution(
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    voxel_size_angstrom: float,
    mask: NDArray[np.floating],
    *,
    window_angstrom: float = 0.0,
    randomise_from_angstrom: float = 0.0,
    threshold: float = 0.5,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return the local resolution at every voxel inside the mask, (box,)*3 float32, angstrom; 0 outside.

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
        Independent halves, unmasked.
    voxel_size_angstrom : float
    mask : ndarray, (box,)*3
        Windows are centred where it is above 0.5.
    window_angstrom : float, angstrom
        Diameter of the window; 0: the larger of 40 angstrom and 16 voxels.
    randomise_from_angstrom : float, angstrom
        Phases finer than this are randomised for the correction; 0: a quarter of the window's shells.
    threshold : float
        0.5 is usual for a window: with the few coefficients of its shells 0.143 is within the noise.

    Notes
    -----
    A window of w voxels has shells that are 1 / w apart: the curve is coarse and its crossing is interpolated. Values
    finer than Nyquist or coarser than the window cannot occur. The grid of windows is spaced so that there are at most
    4,000, and interpolated linearly between.

    References
    ----------
    Cardone, Heymann and Steven 2013, J. Struct. Biol. 184, 226.
    """
    box = len(half_a)
    wide = window_angstrom or max(40.0, 16 * voxel_size_angstrom)
    w = min(2 * round(wide / voxel_size_angstrom / 2), box)
    inside = np.asarray(mask) > 0.5
    step = max(1, w // 8, round((inside.sum() / _MOST_WINDOWS) ** (1 / 3) + 0.499))
    start = round(w * voxel_size_angstrom / randomise_from_angstrom) if randomise_from_angstrom else max(2, w // 8)
    axis = np.arange(step // 2, box, step)
    # a window's centre stands for the voxels around it: keep those with any of them inside
    near = scipy.ndimage.maximum_filter(inside, size=step)[np.ix_(axis, axis, axis)]
    centers = np.argwhere(near)
    values = np.full(near.shape, np.nan, np.float64)
    halves = [np.pad(np.asarray(v, np.float32), w // 2) for v in (half_a, half_b)]
    rng = np.random.default_rng(seed)
    window = _window(w)
    shell = shell_index_rfft(w)
    for first in range(0, len(centers), _BATCH):
        piece = centers[first : first + _BATCH]
        corners = axis[piece]  # in the padded map, the window around a voxel begins at the voxel's own index
        blocks = [np.stack([v[z : z + w, y : y + w, x : x + w] for z, y, x in corners]) for v in halves]
        found = _window_resolutions(blocks, window, shell, start, voxel_size_angstrom, threshold, rng)
        values[tuple(piece.T)] = found
    return _interpolated(values, axis, inside)


def _window(w: int) -> NDArray[np.float32]:
    """Return a raised cosine sphere that fills a box of w voxels: soft all the way, so that it adds little itself."""
    at = (np.arange(w) - w // 2).astype(np.float64) ** 2
    radius = np.sqrt(at[:, None, None] + at[None, :, None] + at[None, None, :])
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(2 * radius / w, 0.0, 1.0)), np.float32)


def _window_resolutions(
    blocks: list[NDArray[np.float32]],
    window: NDArray[np.float32],
    shell: NDArray[np.int32],
    start: int,
    voxel_size_angstrom: float,
    threshold: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    w = len(window)
    axes = (1, 2, 3)
    plain, randomised = [], []
    for block in blocks:  # (n, w, w, w)
        plain.append(scipy.fft.rfftn(block * window, axes=axes))
        raw = scipy.fft.rfftn(block, axes=axes)
        phase = rng.uniform(-np.pi, np.pi, raw.shape).astype(np.float32)
        mixed = np.where(shell >= start, np.abs(raw) * np.exp(1j * phase), raw)
        back = scipy.fft.irfftn(mixed, s=(w,) * 3, axes=axes)
        randomised.append(scipy.fft.rfftn(back * window, axes=axes))
    masked, noise = _fsc_each(plain, shell), _fsc_each(randomised, shell)
    out = np.empty(len(masked))
    for i, (t, n) in enumerate(zip(masked, noise, strict=True)):
        fsc = corrected_fsc(t, n, start)
        if first_shell_below(fsc, threshold) <= 1:
            out[i] = w * voxel_size_angstrom
        else:
            out[i] = resolution_from_fsc(fsc, w, voxel_size_angstrom, threshold)
    return out


def _fsc_each(transforms: Sequence[NDArray[np.complexfloating]], shell: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the FSC of each pair of windows, (n, w // 2 + 1)."""
    n, n_shells = len(transforms[0]), shell.shape[0] // 2 + 1
    keep = np.flatnonzero(shell.ravel() < n_shells)
    order = keep[np.argsort(shell.ravel()[keep], kind="stable")]
    starts = np.searchsorted(shell.ravel()[order], np.arange(n_shells))
    a, b = (t.reshape(n, -1)[:, order] for t in transforms)

    def sums(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(values, starts, axis=1), np.float64)

    cross = sums((a * np.conj(b)).real)
    power = np.sqrt(sums(np.abs(a) ** 2) * sums(np.abs(b) ** 2))
    return np.divide(cross, power, out=np.zeros_like(cross), where=power > 0)


def _interpolated(
    values: NDArray[np.float64], axis: NDArray[np.int_], inside: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Spread the windows' values over the voxels inside the mask; windows that were not made take their nearest's."""
    missing = np.isnan(values)
    if missing.all():
        return np.zeros(inside.shape, np.float32)
    nearest = scipy.ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled = values[tuple(nearest)]
    at = np.argwhere(inside)
    coordinates = (at.T - axis[0]) / (axis[1] - axis[0] if len(axis) > 1 else 1)
    out = np.zeros(inside.shape, np.float32)
    out[inside] = scipy.ndimage.map_coordinates(filled, coordinates, order=1, mode="nearest")
    return out
