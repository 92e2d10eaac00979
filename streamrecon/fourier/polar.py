"""Polar rings of an image's transform, and their angular Fourier coefficients.

For a real image F(r, theta + pi) = conj F(r, theta), so the real part has even and the imaginary part
odd angular frequencies only. The real function Re F + Im F (a Hartley ring) keeps all of it: the
correlation of two rings over in-plane angle is the correlation of two real functions, and angular
frequencies q >= 0 suffice. Frequencies are stored evens first, then odds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PolarGrid:
    """Rings r = 1..n_rings sampled at ``n_half`` angles in [0, pi).

    Attributes
    ----------
    n_rings, n_half : int
    n_psi : int
        In-plane angles of the search, at +-(j + 1/2) 2 pi / n_psi.
    kx, ky : ndarray, (n_rings, n_half) float32, Fourier pixels of the original box
    q : ndarray, (n_q,) int32
        Angular frequencies, evens first.
    even_dft, odd_dft : ndarray, (n_even * 2 or n_odd * 2, n_half) float32
        Rows (q, re|im): angular coefficients from the real (even q) and imaginary (odd q) parts.
    cosine, sine : ndarray, (n_psi // 2, n_q) float32
        From coefficients to correlation at psi_j, the factor 2 of q > 0 included.
    """

    n_rings: int
    n_half: int
    n_psi: int
    kx: NDArray[np.float32]
    ky: NDArray[np.float32]
    q: NDArray[np.int32]
    even_dft: NDArray[np.float32]
    odd_dft: NDArray[np.float32]
    cosine: NDArray[np.float32]
    sine: NDArray[np.float32]

    @property
    def ring_weight(self) -> NDArray[np.float32]:
        """Return (n_rings,): half-plane Fourier points each sample of a ring stands for."""
        r = np.arange(1, self.n_rings + 1)
        return (np.pi * r / self.n_half).astype(np.float32)

    def psi(self) -> NDArray[np.float64]:
        """Return the positive in-plane angles (n_psi // 2,), radians; each also stands for its negative."""
        return np.asarray((np.arange(self.n_psi // 2) + 0.5) * (2 * np.pi / self.n_psi), np.float64)


def polar_grid(n_rings: int, particle_radius_fraction: float, n_psi: int) -> PolarGrid:
    """Build the rings for a particle of a given radius.

    Parameters
    ----------
    n_rings : int
    particle_radius_fraction : float
        Particle radius over box size: an object of radius a has angular frequencies up to
        2 pi r a / N on ring r, which sets the angular sampling.
    n_psi : int, even
    """
    q_max = int(np.ceil(2 * np.pi * n_rings * particle_radius_fraction)) + 2
    n_half = max(8, int(np.ceil((q_max + 1) / 4)) * 4)
    theta = np.arange(n_half) * np.pi / n_half
    r = np.arange(1, n_rings + 1)[:, None]
    q_even = np.arange(0, n_half, 2)
    q_odd = np.arange(1, n_half, 2)
    q = np.concatenate([q_even, q_odd])

    def dft(frequencies: NDArray[np.integer]) -> NDArray[np.float32]:
        angle = frequencies[:, None] * theta[None, :]
        rows = np.stack([np.cos(angle), -np.sin(angle)], axis=1) / n_half  # (n_q, re|im, n_half)
        return rows.reshape(-1, n_half).astype(np.float32)

    psi = (np.arange(n_psi // 2) + 0.5) * (2 * np.pi / n_psi)
    # Parseval: a sum over the circle's 2 n_half samples is 2 n_half times the sum over q of both signs
    factor = np.where(q == 0, 1.0, 2.0) * (2 * n_half)
    angle = psi[:, None] * q[None, :]
    return PolarGrid(
        n_rings=n_rings,
        n_half=n_half,
        n_psi=n_psi,
        kx=(r * np.cos(theta)).astype(np.float32),
        ky=(r * np.sin(theta)).astype(np.float32),
        q=q.astype(np.int32),
        even_dft=dft(q_even),
        odd_dft=dft(q_odd),
        cosine=(np.cos(angle) * factor).astype(np.float32),
        sine=(np.sin(angle) * factor).astype(np.float32),
    )


def polar_from_image_matrix(grid: PolarGrid, box_size: int) -> NDArray[np.float32]:
    """Return the matrix that turns small images into their rings, exactly.

    Parameters
    ----------
    box_size : int
        Of the (low-passed, Fourier-cropped) image; its origin at box_size // 2.

    Returns
    -------
    ndarray, (box_size**2, 2 * n_rings * n_half) float32
        ``images.reshape(n, -1) @ matrix`` gives (n, re|im, n_rings, n_half): a non-uniform Fourier
        transform as one GEMM, which at these sizes beats any gridding.
    """
    x = np.arange(box_size) - box_size // 2
    kx = grid.kx.astype(np.float64).ravel()
    ky = grid.ky.astype(np.float64).ravel()
    wave_x = np.exp(-2j * np.pi * np.outer(x, kx) / box_size)  # (x, points)
    wave_y = np.exp(-2j * np.pi * np.outer(x, ky) / box_size)
    wave = (wave_y[:, None, :] * wave_x[None, :, :]).reshape(box_size**2, -1)
    return np.concatenate([wave.real, wave.imag], axis=1).astype(np.float32)
