"""A map's Fourier coefficients up to some shell, and those of another map at the same places, turned."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.compute.cpu_kernels.slices import extract_points

PAD = 2


class Band:
    """Half-space frequencies of a map's transform up to some shell, as samples to correlate.

    Attributes
    ----------
    points : ndarray, (m, 3) float32, (x, y, z), Fourier pixels
    values : ndarray, (m,) complex64
        Of the map, its origin at voxel box / 2.
    shell : ndarray, (m,) int
    weight : ndarray, (m,) float32
        Brings every shell to the same power: a correlation is not all lowest shells then.
    """

    def __init__(self, volume: NDArray[np.float32], shells: int) -> None:
        box = len(volume)
        axis = np.arange(-shells, shells + 1)
        kz, ky, kx = np.meshgrid(axis, axis, np.arange(shells + 1), indexing="ij")
        radius2 = kx**2 + ky**2 + kz**2
        keep = (radius2 > 0) & (radius2 <= shells**2)
        self.points = np.stack([kx[keep], ky[keep], kz[keep]], axis=1).astype(np.float32)
        self.box = box
        transform = scipy.fft.rfftn(scipy.fft.ifftshift(volume))
        x, y, z = (self.points[:, i].astype(int) for i in range(3))
        self.values = transform[z, y, x].astype(np.complex64)
        shell = self.shell = np.rint(np.sqrt(radius2[keep])).astype(int)
        power = np.bincount(shell, weights=np.abs(self.values) ** 2) / np.maximum(np.bincount(shell), 1)
        gain = np.divide(1.0, np.sqrt(power), out=np.zeros_like(power), where=power > 1e-12 * power.max())
        self.weight = gain[shell].astype(np.float32)
        self.shells = shells

    def sample(self, cube: NDArray[np.float32], rotation: NDArray[np.floating]) -> NDArray[np.complex64]:
        """Return a cube's values at the rotated frequencies, (n, m)."""
        out = np.empty((2, len(rotation), len(self.points)), np.float32)
        extract_points(cube, PAD, self.points, np.asarray(rotation, np.float32), out[0], out[1])
        return np.asarray(out[0] + 1j * out[1], np.complex64)
