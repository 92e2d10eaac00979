"""Fourier shell correlation: known values, limits, crossings."""

import numpy as np
import pytest
import scipy.fft

from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.shells import (
    first_shell_below,
    fourier_shell_correlation,
    resolution_from_fsc,
    shell_index_rfft,
)


def fsc(a, b):
    n = len(a)
    return fourier_shell_correlation(scipy.fft.rfftn(a), scipy.fft.rfftn(b), shell_index_rfft(n), n // 2 + 1)


def test_fsc_of_a_map_with_itself_and_its_negative(rng):
    v = rng.standard_normal((24, 24, 24))
    np.testing.assert_allclose(fsc(v, v), 1.0, atol=1e-6)
    np.testing.assert_allclose(fsc(v, -v), -1.0, atol=1e-6)


def test_fsc_of_signal_with_noise_has_the_expected_value(rng):
    signal, noise_1, noise_2 = rng.standard_normal((3, 48, 48, 48))
    curve = fsc(signal + noise_1, signal + noise_2)  # SSNR 1 a half: FSC 1/2
    assert abs(curve[8:24].mean() - 0.5) < 0.02


def test_fsc_against_a_plain_loop(rng):
    a, b = rng.standard_normal((2, 16, 16, 16))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    k = np.fft.fftfreq(16, 1 / 16)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)
    found = fsc(a, b)
    for shell in range(2, 8):
        sel = np.abs(radius - shell) < 0.5
        expected = (fa[sel] * fb[sel].conj()).sum().real
        expected /= np.sqrt((np.abs(fa[sel]) ** 2).sum() * (np.abs(fb[sel]) ** 2).sum())
        # the half grid counts Friedel pairs once, except on its first plane
        assert abs(found[shell] - expected) < 0.12


def test_an_empty_shell_is_zero():
    assert fsc(np.zeros((16, 16, 16)), np.ones((16, 16, 16))).tolist() == [0.0] * 9


@pytest.mark.parametrize(
    ("curve", "shell", "resolution"),
    [
        ([1, 1, 0.75, 0.25, 0], 3, 100 / 2.5),
        ([1, 0.2, 0.1], 1, 100.0),
        ([1, 1, 1], 3, 50.0),
    ],
)
def test_crossing(curve, shell, resolution):
    assert first_shell_below(np.array(curve), 0.5) == shell
    assert np.isclose(resolution_from_fsc(np.array(curve), 50, 2.0, 0.5), resolution)


def test_half_plane_points_hold_each_pair_once():
    points = half_plane_points(9)
    pairs = {(int(x), int(y)) for x, y in zip(points.kx, points.ky, strict=True)}
    assert len(pairs) == len(points)
    assert not any((-x, -y) in pairs for x, y in pairs)
    full = sum(0 < x * x + y * y <= 81 for x in range(-9, 10) for y in range(-9, 10))
    assert 2 * len(points) == full
    for start, count, kx0, ky in points.runs:
        assert points.kx[start : start + count].tolist() == list(range(kx0, kx0 + count))
        assert set(points.ky[start : start + count].tolist()) == {float(ky)}
