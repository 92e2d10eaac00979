"""Checks and normalisation of particle images as they come from a stack. All of it works on whole batches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import IngestError

Contrast = Literal["protein_white", "protein_black", "unsure"]
# Below this two-sided level a mean difference is noise; five standard errors leave one error in a million.
_CONTRAST_STANDARD_ERRORS = 5.0


def check_images(
    images: NDArray[np.float32], path: Path | str, indices: NDArray[np.integer]
) -> tuple[NDArray[np.bool_], list[str]]:
    """Find the images that cannot be used.

    Parameters
    ----------
    images : ndarray, (n, ny, nx) float32
    path : Path or str
        The stack, for the reasons.
    indices : ndarray, (n,) int
        Zero-based sections.

    Returns
    -------
    good : ndarray, (n,) bool
    reasons : list of str
        One for each bad image, in order.
    """
    # NaN passes through both extremes; comparing them needs no squares, which could overflow.
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))
    finite: NDArray[np.bool_] = np.isfinite(low) & np.isfinite(high)
    good = finite & (high > low)
    reasons = []
    for row in np.flatnonzero(~good).tolist():
        what = "the same value in every pixel" if finite[row] else _describe_bad(images[row])
        reasons.append(
            f"{path}: expected an image in section {int(indices[row]) + 1}, found {what}; the particle is left out"
        )
    return good, reasons


def _describe_bad(image: NDArray[np.float32]) -> str:
    return f"{int((~np.isfinite(image)).sum())} pixels NaN or infinite"


def normalize_background(images: NDArray[np.floating], particle_radius_pixels: float) -> NDArray[np.float32]:
    """Bring each image's background to mean 0 and standard deviation 1.

    Parameters
    ----------
    images : ndarray, (n, box, box)
    particle_radius_pixels : float
        The background is every pixel farther from the box centre (box / 2, box / 2) than this.

    Returns
    -------
    ndarray, (n, box, box) float32

    Raises
    ------
    IngestError
        The circle leaves fewer than 16 pixels, or an image has no variance there.
    """
    background = ~_inside(images.shape[-1], particle_radius_pixels)
    if background.sum() < 16:
        raise IngestError(
            f"a particle radius of {particle_radius_pixels:g} pixels leaves {int(background.sum())} "
            "background pixels in "
            f"a box of {images.shape[-1]}; set a smaller particle diameter"
        )
    pixels = images[:, background]  # (n, n_background)
    # float64 accumulation: counts of raw images are large against their spread
    mean = pixels.mean(axis=1, dtype=np.float64)
    deviation = (pixels - mean[:, None]).std(axis=1, dtype=np.float64)
    if not (deviation > 0).all():
        row = int(np.flatnonzero(~(deviation > 0))[0])
        raise IngestError(f"image {row} of the batch has no variance outside the particle; leave it out")
    centered = (images - mean[:, None, None]).astype(np.float32)
    scaled: NDArray[np.float32] = centered * (1 / deviation[:, None, None]).astype(np.float32)
    return scaled


def detect_contrast(images: NDArray[np.floating], particle_radius_pixels: float) -> Contrast:
    """Tell whether the protein is brighter or darker than its surroundings.

    Parameters
    ----------
    images : ndarray, (n, box, box)
        A hundred or more; fewer are often "unsure".
    particle_radius_pixels : float

    Returns
    -------
    {"protein_white", "protein_black", "unsure"}

    Notes
    -----
    d_i = (mean inside the circle - mean outside) / background deviation, for each image; the answer is the
    sign of the median of d if it lies five standard errors from zero. An underfocus CTF is small but positive
    at the lowest frequencies and its first zero lies near 1/20 angstrom, so the sum over a whole particle
    keeps the sign of its scattering. The median shrugs off ice and carbon edges.
    """
    inside = _inside(images.shape[-1], particle_radius_pixels)
    outside = images[:, ~inside]
    deviation = outside.std(axis=1, dtype=np.float64)
    usable = deviation > 0
    difference = images[:, inside].mean(axis=1, dtype=np.float64) - outside.mean(axis=1, dtype=np.float64)
    values = difference[usable] / deviation[usable]
    if len(values) < 10:
        return "unsure"
    median = float(np.median(values))
    # A median's standard error is 1.2533 sigma / sqrt(n); quartiles give a sigma that outliers spare.
    sigma = float(np.subtract(*np.percentile(values, [75, 25]))) / 1.349
    if abs(median) <= _CONTRAST_STANDARD_ERRORS * 1.2533 * sigma / np.sqrt(len(values)):
        return "unsure"
    return "protein_white" if median > 0 else "protein_black"


def _inside(box_size: int, radius_pixels: float) -> NDArray[np.bool_]:
    offset = np.arange(box_size) - box_size // 2
    inside: NDArray[np.bool_] = offset[:, None] ** 2 + offset**2 <= radius_pixels**2
    return inside
