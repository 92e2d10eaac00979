"""Pictures of maps and of the distribution of views, as PNG; arrays in, bytes out."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Literal

import healpix
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

SHOWN_SIDE = 160
_GAP = 4
_ANGULAR_SIZE = (720, 360)
_GREYS = (0.2, 99.8)  # percentiles that become black and white
Kind = Literal["slices", "projections"]


def preview(volume: NDArray[np.float32], voxel_size_angstrom: float) -> tuple[NDArray[np.float32], float]:
    """Return the map with at most `SHOWN_SIDE` voxels a side, by cutting its Fourier transform, and its voxel size.

    A screen shows no more, and the page's process keeps three maps of whatever box.
    """
    side = volume.shape[0]
    if side <= SHOWN_SIDE:
        return volume, voxel_size_angstrom
    dft = scipy.fft.fftshift(scipy.fft.fftn(volume))
    low = side // 2 - SHOWN_SIDE // 2
    cut = (slice(low, low + SHOWN_SIDE),) * 3
    small = scipy.fft.ifftn(scipy.fft.ifftshift(dft[cut])).real * (SHOWN_SIDE / side) ** 3
    return small.astype(np.float32), voxel_size_angstrom * side / SHOWN_SIDE


def map_picture(volume: NDArray[np.float32], kind: Kind) -> bytes:
    """Return three greyscale pictures side by side: along z, y and x; protein is white.

    Parameters
    ----------
    volume : ndarray, (z, y, x)
    kind : {"slices", "projections"}
        Through the centre, or sums.
    """
    c = volume.shape[0] // 2
    if kind == "slices":
        tiles = [volume[c], volume[:, c], volume[:, :, c]]
    else:
        tiles = [volume.sum(axis=axis) for axis in range(3)]
    low, high = np.percentile(np.stack(tiles), _GREYS)
    span = high - low if high > low else 1.0
    side = volume.shape[0]
    sheet = np.zeros((side, 3 * side + 2 * _GAP), np.uint8)
    for i, tile in enumerate(tiles):
        # rows of a picture go down, y and z go up
        grey = np.clip((tile[::-1] - low) / span, 0.0, 1.0) * 255.0
        sheet[:, i * (side + _GAP) : i * (side + _GAP) + side] = np.rint(grey)
    return _png(sheet)


def angular_picture(n_side: int, counts: NDArray[np.float64]) -> bytes:
    """Return the number of views by direction as a heat map in Mollweide's projection, transparent around it.

    Parameters
    ----------
    n_side : int
        HEALPix resolution.
    counts : ndarray, (12 n_side^2,)
        In RING order.

    References
    ----------
    Gorski et al., Astrophys. J. 622 (2005) 759; Snyder, Map Projections (USGS 1395, 1987), p. 249.
    """
    pixel = _mollweide(n_side)
    inside = pixel >= 0
    peak = float(counts.max())
    scaled = counts / peak if peak > 0 else counts
    colors = (_viridis()[np.rint(scaled * 255.0).astype(np.intp)])[np.where(inside, pixel, 0)]
    picture = np.dstack([colors, np.where(inside, 255, 0).astype(np.uint8)])
    return _png(picture)


@lru_cache(maxsize=4)
def _mollweide(n_side: int) -> NDArray[np.int64]:
    """Return the HEALPix pixel below each pixel of the picture, -1 outside the ellipse."""
    width, height = _ANGULAR_SIZE
    x = (np.arange(width) + 0.5) / width * 2.0 - 1.0
    y = 1.0 - (np.arange(height) + 0.5) / height * 2.0
    x, y = np.meshgrid(x, y)
    inside = x**2 + y**2 < 1.0
    auxiliary = np.arcsin(y[inside])
    sine = (2.0 * auxiliary + np.sin(2.0 * auxiliary)) / np.pi
    longitude = np.pi * x[inside] / np.cos(auxiliary)
    theta = np.arccos(np.clip(sine, -1.0, 1.0))
    pixel = np.full(x.shape, -1, np.int64)
    pixel[inside] = healpix.ang2pix(n_side, theta, np.mod(longitude, 2.0 * np.pi))
    return pixel


@lru_cache(maxsize=1)
def _viridis() -> NDArray[np.uint8]:
    from matplotlib import colormaps  # here: it takes a while, and the page can be up before

    colors: NDArray[np.uint8] = np.rint(colormaps["viridis"](np.arange(256))[:, :3] * 255.0).astype(np.uint8)
    return colors


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()
