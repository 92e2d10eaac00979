"""The CTF against its textbook form, term by term."""

import numpy as np

from streamrecon.optics.ctf import ctf_coefficients, electron_wavelength_angstrom, evaluate_ctf
from streamrecon.optics.group import OpticsGroup

GROUP = OpticsGroup("g", 300.0, 2.7, 0.1, 1.0, 64)


def test_wavelength_from_physical_constants():
    h, m, e, c = 6.62607015e-34, 9.1093837e-31, 1.602176634e-19, 299792458.0
    for kilovolt, rounded in ((300.0, 0.0197), (200.0, 0.0251), (120.0, 0.0335)):
        energy = kilovolt * 1e3 * e
        expected = 1e10 * h / np.sqrt(2 * m * energy * (1 + energy / (2 * m * c**2)))
        assert np.isclose(electron_wavelength_angstrom(kilovolt), expected, rtol=1e-5)
        assert abs(expected - rounded) < 5e-5


def test_ctf_against_polar_form():
    rng = np.random.default_rng(0)
    u, v, angle, phase = np.array([18000.0]), np.array([15000.0]), np.array([37.0]), np.array([20.0])
    kx, ky = rng.uniform(-0.3, 0.3, (2, 500))
    found = evaluate_ctf(ctf_coefficients(GROUP, u, v, angle, phase), kx, ky)[0]
    k, phi = np.hypot(kx, ky), np.arctan2(ky, kx)
    wavelength = electron_wavelength_angstrom(300.0)
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (phi - np.deg2rad(angle)))
    chi = np.pi * wavelength * defocus * k**2 - np.pi / 2 * 2.7e7 * wavelength**3 * k**4
    expected = np.sin(chi + np.deg2rad(phase) + np.arcsin(0.1))
    np.testing.assert_allclose(found, expected, atol=2e-4)  # float32 coefficients of phases up to 100 rad


def test_white_protein_is_positive_at_low_frequency():
    c = ctf_coefficients(GROUP, np.array([15000.0]), np.array([15000.0]), np.zeros(1), np.zeros(1))
    assert evaluate_ctf(c, np.array([0.0]), np.array([0.0]))[0, 0] > 0.09
    assert evaluate_ctf(c, np.array([0.01]), np.array([0.0]))[0, 0] > 0.1
