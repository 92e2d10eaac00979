"""The contrast transfer function, in RELION's convention: positive at low frequency for white protein.

C(k) = sin(pi lambda dz(phi) k^2 - pi/2 Cs lambda^3 k^4 + phase_shift + atan(w / sqrt(1 - w^2)))
with underfocus dz positive and w the amplitude contrast; the envelope exp(-B k^2 / 4) is separate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon.optics.group import OpticsGroup


def electron_wavelength_angstrom(voltage_kilovolt: float) -> float:
    """Return the relativistic electron wavelength, angstrom (RELION's constants)."""
    volt = voltage_kilovolt * 1e3
    return float(12.2643247 / np.sqrt(volt * (1.0 + volt * 0.978466e-6)))


def ctf_coefficients(
    group: OpticsGroup,
    defocus_u_angstrom: NDArray[np.floating],
    defocus_v_angstrom: NDArray[np.floating],
    astigmatism_angle_degrees: NDArray[np.floating],
    phase_shift_degrees: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Reduce each particle's CTF to five numbers, so that kernels evaluate it anywhere.

    Returns
    -------
    ndarray, (n, 5) float32
        (a_xx, a_yy, a_xy, b, c) with the CTF's phase at spatial frequency k (1/angstrom):
        chi = a_xx kx^2 + a_yy ky^2 + a_xy kx ky + b |k|^4 + c, and C = sin(chi).

    Notes
    -----
    dz(phi) = (u + v)/2 + (u - v)/2 cos(2 (phi - angle)); cos(2 phi) |k|^2 = kx^2 - ky^2 and
    sin(2 phi) |k|^2 = 2 kx ky turn it into a quadratic form.

    References
    ----------
    Rohou and Grigorieff 2015, J. Struct. Biol. 192, eq. 2-3 (with the sign above).
    """
    wavelength = electron_wavelength_angstrom(group.voltage_kilovolt)
    cs = group.spherical_aberration_millimeter * 1e7
    w = group.amplitude_contrast
    u = np.asarray(defocus_u_angstrom, np.float64)
    v = np.asarray(defocus_v_angstrom, np.float64)
    angle = np.deg2rad(np.asarray(astigmatism_angle_degrees, np.float64))
    mean, half_difference = (u + v) / 2, (u - v) / 2
    scale = np.pi * wavelength
    out = np.empty((len(u), 5), np.float64)
    out[:, 0] = scale * (mean + half_difference * np.cos(2 * angle))
    out[:, 1] = scale * (mean - half_difference * np.cos(2 * angle))
    out[:, 2] = scale * 2 * half_difference * np.sin(2 * angle)
    out[:, 3] = -np.pi / 2 * cs * wavelength**3
    out[:, 4] = np.deg2rad(np.asarray(phase_shift_degrees, np.float64)) + np.arctan2(w, np.sqrt(1 - w * w))
    return out.astype(np.float32)


def evaluate_ctf(
    coefficients: NDArray[np.floating], kx: NDArray[np.floating], ky: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Evaluate the CTF of n particles at m spatial frequencies.

    Parameters
    ----------
    coefficients : ndarray, (n, 5)
        From `ctf_coefficients`.
    kx, ky : ndarray, (m,), 1/angstrom

    Returns
    -------
    ndarray, (n, m) float32
    """
    kx64, ky64 = np.asarray(kx, np.float64), np.asarray(ky, np.float64)
    k2 = kx64**2 + ky64**2
    basis = np.stack([kx64**2, ky64**2, kx64 * ky64, k2**2, np.ones_like(k2)])  # (5, m)
    return np.sin(np.asarray(coefficients, np.float64) @ basis).astype(np.float32)
