"""From where particles are seen: counts on the sphere, what the distribution is worth, and whether to tilt.

A view's direction is the beam's in the frame of the volume, R (0, 0, 1); a direction and its opposite sample the same
plane of Fourier space.
"""

from __future__ import annotations

import healpix
import numpy as np
from numpy.typing import NDArray

N_SIDE = 8  # 768 pixels, 7.3 degrees apart
TILTS_DEGREES = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
GOOD_EFFICIENCY = 0.8
_ASKED_N_SIDE = 8
_AZIMUTHS = 36
_LEVEL = 0.5
_BISECTIONS = 24
# the extent of a single view's point spread function is infinite along the view
_LONGEST = 40.0


def angular_counts(
    rotation: NDArray[np.floating], n_side: int = N_SIDE, weight: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Count views on HEALPix pixels, RING order.

    Parameters
    ----------
    rotation : ndarray, (n, 3, 3)
        Image frame to volume frame.
    n_side : int
    weight : ndarray, (n,), optional

    Returns
    -------
    ndarray, (12 n_side^2,) float64
    """
    beam = np.asarray(rotation, np.float64)[:, :, 2]  # (n, 3)
    pixel = healpix.vec2pix(n_side, beam[:, 0], beam[:, 1], beam[:, 2])
    return np.bincount(np.asarray(pixel, np.int64), weights=weight, minlength=12 * n_side**2).astype(np.float64)


def pixel_directions(n_side: int) -> NDArray[np.float64]:
    """Return the unit vector of each pixel's centre, (12 n_side^2, 3), RING order."""
    return np.stack(healpix.pix2vec(n_side, np.arange(12 * n_side**2)), axis=-1)


def point_spread_extent(counts: NDArray[np.floating], direction: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how far the point spread function reaches in each direction: where it is half its peak, (m,).

    Parameters
    ----------
    counts : ndarray, (12 n_side^2,)
        Views, RING order.
    direction : ndarray, (m, 3)
        Unit vectors.

    Notes
    -----
    Backprojected, a view along n of a point seen with a Gaussian of standard deviation 1 is a rod: at r in direction
    u it has exp(-r^2 (1 - (n.u)^2) / 2). The point spread function is the mean over all views; lengths are in units
    of that standard deviation, so that one view reaches 1.177 across itself. The longest that is told is 40.
    """
    n_side = round(np.sqrt(len(counts) / 12))
    used = np.flatnonzero(counts)
    views = pixel_directions(n_side)[used]
    share = counts[used] / counts[used].sum()
    across = 1.0 - np.square(np.asarray(direction, np.float64) @ views.T)  # (m, n_used)
    low, high = np.zeros(len(direction)), np.full(len(direction), _LONGEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        value = np.exp(-0.5 * middle[:, None] ** 2 * across) @ share
        low, high = np.where(value > _LEVEL, middle, low), np.where(value > _LEVEL, high, middle)
    return np.asarray((low + high) / 2, np.float64)


def orientation_efficiency(counts: NDArray[np.floating]) -> float | None:
    """Return the efficiency of a distribution of views, 0 to 1; None without views.

    Notes
    -----
    E = 1 - 2 sigma(R) / mean(R), with R the extent of the point spread function (`point_spread_extent`) in all
    directions: 1 where it is a ball, which uniform views make; 0.71 for all views from one belt (side views); 0 for
    one view alone. Negative values, of which there are many ways, are told as 0. That R is taken at half the peak is
    our choice: figures of other programs differ in the second decimal.

    References
    ----------
    Naydenova and Russo 2017, Nat. Commun. 8, 629.
    """
    if counts.sum() <= 0:
        return None
    direction = pixel_directions(_ASKED_N_SIDE)
    extent = point_spread_extent(counts, direction[direction[:, 2] >= 0])
    return float(np.clip(1.0 - 2.0 * extent.std() / extent.mean(), 0.0, 1.0))


def tilted_counts(counts: NDArray[np.floating], tilt_degrees: float) -> NDArray[np.float64]:
    """Return the views that the same particles would give on a stage tilted by so much.

    The particles lie at any angle around the beam, so each view becomes a ring of that radius around itself.
    """
    if tilt_degrees == 0:
        return np.asarray(counts, np.float64)
    n_side = round(np.sqrt(len(counts) / 12))
    n = pixel_directions(n_side)
    # two vectors across each view
    helper = np.where(np.abs(n[:, 2:]) < 0.9, np.array([[0.0, 0.0, 1.0]]), np.array([[1.0, 0.0, 0.0]]))
    e1 = np.cross(n, helper)
    e1 /= np.linalg.norm(e1, axis=1, keepdims=True)
    e2 = np.cross(n, e1)
    out = np.zeros(len(counts))
    ct, st = np.cos(np.deg2rad(tilt_degrees)), np.sin(np.deg2rad(tilt_degrees))
    for azimuth in np.arange(_AZIMUTHS) * 2 * np.pi / _AZIMUTHS:
        v = ct * n + st * (np.cos(azimuth) * e1 + np.sin(azimuth) * e2)
        pixel = np.asarray(healpix.vec2pix(n_side, v[:, 0], v[:, 1], v[:, 2]), np.int64)
        out += np.bincount(pixel, weights=counts / _AZIMUTHS, minlength=len(counts))
    return out


def tilt_suggestion_degrees(counts: NDArray[np.floating], good: float = GOOD_EFFICIENCY) -> float | None:
    """Return the smallest stage tilt, 0 to 60 degrees, that makes the views good enough; None without views.

    Parameters
    ----------
    counts : ndarray, (12 n_side^2,)
    good : float
        Efficiency that needs nothing done about it.

    Notes
    -----
    0 means: leave it. If no tilt reaches ``good``, the one with the best efficiency. What tilting costs (thicker ice by
    1 / cos, a defocus gradient, more movement) is not in this; so the smallest tilt that does is the one to take.
    """
    if counts.sum() <= 0:
        return None
    efficiency = [orientation_efficiency(tilted_counts(counts, t)) or 0.0 for t in TILTS_DEGREES]
    enough = [t for t, e in zip(TILTS_DEGREES, efficiency, strict=True) if e >= good]
    return enough[0] if enough else TILTS_DEGREES[int(np.argmax(efficiency))]
