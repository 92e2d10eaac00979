"""Solvent masks: found from the half maps, spherical, or the user's own, checked.

A mask is 1 on the particle, 0 in the solvent and falls off smoothly between: what a hard edge does to an FSC,
`streamrecon.assess.fsc_curves` shows.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

from streamrecon.errors import NumericalError, UnsupportedFormat
from streamrecon.fourier.shells import shell_index_rfft
from streamrecon.inference.observation import soft_sphere
from streamrecon.reconstruct.mapping import resize_volume

LOW_PASS_ANGSTROM = 15.0
EXTEND_ANGSTROM = 6.0
EDGE_ANGSTROM = 15.0
# The outline is found on a grid no finer than this: it is that of a map filtered to 15 A, and a distance transform
# of a large box would take gigabytes.
_MOST_VOXELS = 96
_NOISE_FACTOR = 4.0
_PEAK_SHARE = 0.12
_KEPT_PART = 0.1
_SOFT_EDGE_VOXELS = 3.0


def spherical_mask(box_size: int, radius: float, edge: float) -> NDArray[np.float32]:
    """Return a soft sphere around voxel box / 2, (box,)*3 float32.

    Parameters
    ----------
    radius, edge : float, voxels
        1 inside ``radius``, a raised cosine over ``edge`` beyond it.
    """
    return np.asarray(soft_sphere(box_size, radius, edge, dimensions=3), np.float32)


def automatic_mask(
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    voxel_size_angstrom: float,
    *,
    extend_angstrom: float = EXTEND_ANGSTROM,
    edge_angstrom: float = EDGE_ANGSTROM,
) -> NDArray[np.float32]:
    """Find the particle's outline and return it as a soft mask.

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
        Protein positive.
    voxel_size_angstrom : float
    extend_angstrom, edge_angstrom : float, angstrom
        The outline is moved out by the first, the mask falls to 0 over the second; at least 3 voxels each.

    Returns
    -------
    ndarray, (box,)*3 float32
        0 to 1.

    Raises
    ------
    NumericalError
        Nothing stands out of the noise.

    Notes
    -----
    The mean of the halves is filtered to 15 angstrom (or 6 voxels) and cut at the larger of 4 standard deviations of
    its noise and 0.12 of its 99.9th percentile. The noise is that of half the difference between the halves, filtered
    alike: what both hold is not in it. Of the connected parts those below a tenth of the largest are dropped, holes are
    filled, and the distance to what is left makes the soft edge.
    """
    box = len(half_a)
    coarse = min(box, _MOST_VOXELS)
    scale = box / coarse
    cut_angstrom = max(LOW_PASS_ANGSTROM, 6 * voxel_size_angstrom)
    mean, noise = (
        _low_passed(np.asarray(v, np.float32), cut_angstrom, voxel_size_angstrom, coarse)
        for v in ((half_a + half_b) / 2, (half_a - half_b) / 2)
    )
    ball = spherical_mask(coarse, coarse / 2 - 2, 1.0) > 0.5
    # dust far out on both sides counts as noise: the median absolute deviation does not feel the particle
    spread = 1.4826 * float(np.median(np.abs(noise[ball] - np.median(noise[ball]))))
    level = float(np.median(mean[ball]))
    peak = float(np.percentile(mean[ball], 99.9)) - level
    threshold = level + max(_NOISE_FACTOR * spread, _PEAK_SHARE * peak)
    inside = _largest_parts((mean > threshold) & ball)
    # a peak of filtered noise is narrower than what the filter lets through
    if inside.sum() * (voxel_size_angstrom * scale) ** 3 < cut_angstrom**3:
        raise NumericalError(
            "expected a particle in the half maps, found nothing of its size that stands four standard "
            "deviations out of the noise; wait for more particles, or give a mask"
        )
    least = _SOFT_EDGE_VOXELS * voxel_size_angstrom
    coarse_voxel = voxel_size_angstrom * scale
    distance = scipy.ndimage.distance_transform_edt(~inside) * coarse_voxel
    beyond = (distance - max(extend_angstrom, least)) / max(edge_angstrom, least)
    soft = np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(beyond, 0.0, 1.0)), np.float32)
    return soft if coarse == box else _enlarged(soft, box)


def check_mask(
    mask: NDArray[np.floating], voxel_size_angstrom: float, box_size: int, map_voxel_size_angstrom: float, name: str
) -> NDArray[np.float32]:
    """Return a user's mask, (box,)*3 float32, once it has passed.

    Parameters
    ----------
    mask : ndarray
    voxel_size_angstrom : float
    box_size, map_voxel_size_angstrom : int, float
        What the maps have.
    name : str
        For the message.

    Raises
    ------
    UnsupportedFormat
        Another size or voxel size, values outside 0 to 1 (by more than 1e-5), nothing or everything inside, or a hard
        edge: no voxel between 0.05 and 0.95, which would correlate the halves by itself.
    """
    if mask.shape != (box_size,) * 3 or not np.isclose(voxel_size_angstrom, map_voxel_size_angstrom, rtol=1e-3):
        raise UnsupportedFormat(
            f"{name}: expected a mask of {box_size} voxels of {map_voxel_size_angstrom:g} A as the maps, found "
            f"{mask.shape} of {voxel_size_angstrom:g} A; resample it"
        )
    low, high = float(mask.min()), float(mask.max())
    if not (np.isfinite(low) and np.isfinite(high) and low >= -1e-5 and high <= 1 + 1e-5):
        raise UnsupportedFormat(
            f"{name}: expected values from 0 to 1, found {low:g} to {high:g}; divide it by its maximum"
        )
    if high < 0.5 or low > 0.5:
        raise UnsupportedFormat(
            f"{name}: expected a mask with an inside and an outside, found {low:g} to {high:g}; make it anew"
        )
    if not ((mask > 0.05) & (mask < 0.95)).any():
        raise UnsupportedFormat(
            f"{name}: expected a soft edge, found only 0 and 1: a hard edge makes noise look like signal; "
            "give it an edge of some 5 voxels, as relion_mask_create --width_soft_edge does"
        )
    return np.clip(np.asarray(mask, np.float32), 0.0, 1.0)


def _low_passed(
    volume: NDArray[np.float32], cut_angstrom: float, voxel_size_angstrom: float, box_size: int
) -> NDArray[np.float32]:
    """Return the map without detail finer than ``cut_angstrom`` (a raised cosine of 3 shells), in a smaller box."""
    small = volume if box_size == len(volume) else resize_volume(volume, box_size)
    cut = len(volume) * voxel_size_angstrom / cut_angstrom
    ramp = np.clip((shell_index_rfft(box_size) - cut) / 3.0, 0.0, 1.0)
    transform = scipy.fft.rfftn(small) * np.asarray(0.5 + 0.5 * np.cos(np.pi * ramp), np.float32)
    return np.asarray(scipy.fft.irfftn(transform, s=(box_size,) * 3), np.float32)


def _largest_parts(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, n = scipy.ndimage.label(inside)
    if n == 0:
        return inside
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes >= _KEPT_PART * sizes.max()
    return np.asarray(scipy.ndimage.binary_fill_holes(keep[labels]), np.bool_)


def _enlarged(mask: NDArray[np.float32], box_size: int) -> NDArray[np.float32]:
    """Interpolate a mask to a larger box of the same length; the centres of both, voxel n / 2, fall together."""
    coarse = len(mask)
    at = (np.arange(box_size) - box_size // 2) * (coarse / box_size) + coarse // 2
    out = np.asarray(mask, np.float32)
    lower = np.clip(np.floor(at).astype(int), 0, coarse - 2)
    share = np.clip(at - lower, 0.0, 1.0).astype(np.float32)
    for axis in range(3):
        # trilinear interpolation, one axis after the other: no array of coordinates as large as three maps
        shape = [1, 1, 1]
        shape[axis] = box_size
        s = share.reshape(shape)
        out = np.take(out, lower, axis=axis) * (1 - s) + np.take(out, lower + 1, axis=axis) * s
    return out
