from dataclasses import replace

import numpy as np
import pytest

from streamrecon.errors import ConfigError
from streamrecon.io import detect_contrast
from streamrecon.simulate import Micrograph, Microscope, MicroscopeSettings

BOX = 32
SETTINGS = MicroscopeSettings(pixel_size_angstrom=4.0, particles_per_micrograph=40, snr=0.2, n_optics_groups=2, seed=9)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    return (np.exp(-(x**2 / 30 + y**2 / 12 + (z - 2) ** 2 / 8)) + np.exp(-((x - 5) ** 2 + y**2 + z**2) / 6)).astype(
        np.float32
    )


def take(volume: np.ndarray, number: int = 0, n: int | None = None, **changed: object) -> Micrograph:
    return Microscope(volume, replace(SETTINGS, **changed)).micrograph(number, "s.mrcs", "m.mrc", n)


def test_a_micrograph_depends_on_seed_and_number_only(volume: np.ndarray) -> None:
    microscope = Microscope(volume, SETTINGS)
    in_order = [microscope.micrograph(i, "s.mrcs", "m.mrc") for i in range(3)]
    alone = take(volume, 2)
    np.testing.assert_array_equal(alone.images, in_order[2].images)
    np.testing.assert_array_equal(alone.table.rotation, in_order[2].table.rotation)
    first = take(volume, 2, 7)
    np.testing.assert_array_equal(first.images, alone.images[:7])
    for other in (in_order[1], take(volume, 2, seed=10)):
        assert not np.isclose(other.images, alone.images).any(axis=(1, 2)).all()
        assert abs(np.corrcoef(other.images.ravel(), alone.images.ravel())[0, 1]) < 0.1
        assert not np.allclose(other.table.rotation, alone.table.rotation)


def test_snr_is_signal_over_noise_variance(volume: np.ndarray) -> None:
    # one particle a micrograph, since the signal depends on the defocus
    noisy = Microscope(volume, replace(SETTINGS, snr=0.5, particles_per_micrograph=1))
    junk = Microscope(volume, replace(noisy.settings, junk_fraction=1.0))
    particles = [noisy.micrograph(i, "s", "m") for i in range(400)]
    noises = [junk.micrograph(i, "s", "m") for i in range(400)]
    assert not any(p.is_junk.any() for p in particles)
    assert all(p.is_junk.all() for p in noises)
    noise = np.concatenate([p.images for p in noises])
    # the same noise lies under both, so the difference is the signal
    signal = np.concatenate([p.images for p in particles]) - noise
    assert noise.var() == pytest.approx(1, abs=0.01)
    assert signal.var(axis=(1, 2)).mean() == pytest.approx(0.5, rel=0.1)
    clean = take(volume, 0, snr=np.inf, particles_per_micrograph=1).images
    assert np.corrcoef(clean.ravel(), signal[0].ravel())[0, 1] > 0.9999


def test_defocus_shift_and_groups(volume: np.ndarray) -> None:
    microscope = Microscope(volume, replace(SETTINGS, n_optics_groups=3, phase_shift_degrees=60.0))
    tables = [microscope.micrograph(i, f"s{i}", f"m{i}").table for i in range(60)]
    assert [t.optics_group_index[0] for t in tables[:4]] == [0, 1, 2, 0]
    assert len({(g.voltage_kilovolt, g.amplitude_contrast) for g in microscope.optics_groups}) == 3
    defocus = np.array([(t.defocus_u_angstrom + t.defocus_v_angstrom) / 2 for t in tables])
    means = defocus.mean(axis=1)
    assert means.min() > 9_900
    assert means.max() < 25_100
    assert means.std() == pytest.approx(15_000 / np.sqrt(12), rel=0.2)
    assert (defocus - means[:, None]).std() == pytest.approx(150, rel=0.1)
    for t in tables:
        np.testing.assert_allclose(t.defocus_u_angstrom - t.defocus_v_angstrom, 300, atol=0.01)
        assert (t.phase_shift_degrees == 60).all()
    assert np.concatenate([t.shift_angstrom for t in tables]).std(axis=0) == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("concentration", [0.0, 5.0, -5.0])
def test_views_follow_watsons_distribution(volume: np.ndarray, concentration: float) -> None:
    microscope = Microscope(volume, replace(SETTINGS, view_concentration=concentration, particles_per_micrograph=4000))
    direction = microscope._parameters(0, 4000, "s", "m")[0].rotation[:, :, 2]
    u = np.linspace(-1, 1, 20001)
    expected = np.average(u**2, weights=np.exp(concentration * u**2))
    assert (direction[:, 2] ** 2).mean() == pytest.approx(expected, abs=0.02)
    # no side and no azimuth is preferred
    assert abs(direction.mean(axis=0)).max() < 0.05


def test_protein_is_white_and_junk_a_share(volume: np.ndarray) -> None:
    microscope = Microscope(volume, replace(SETTINGS, particles_per_micrograph=400, junk_fraction=0.25))
    micrograph = microscope.micrograph(0, "s", "m")
    assert detect_contrast(micrograph.images, 10) == "protein_white"
    assert micrograph.is_junk.mean() == pytest.approx(0.25, abs=0.07)


def test_coloured_noise_falls_with_frequency_at_the_same_variance(volume: np.ndarray) -> None:
    images = np.concatenate([take(volume, i, noise="colored", junk_fraction=1.0).images for i in range(10)])
    assert images.var() == pytest.approx(1, abs=0.01)
    power = (abs(np.fft.fft2(images)) ** 2).mean(axis=0) / BOX**2
    # 1 at zero frequency and 0.3 + 0.7 / (1 + 1 / 0.35^2) = 0.376 at Nyquist, squared
    ratio = power[0, BOX // 2 - 2 : BOX // 2 + 3].mean() / power[0, 1:3].mean()
    assert ratio == pytest.approx(0.376**2 / 0.92**2, rel=0.2)


def test_settings_that_make_no_sense_are_named_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"SNR above 0, found 0.*junk fraction from 0 to 1, found 2"):
        MicroscopeSettings(snr=0, junk_fraction=2)
    with pytest.raises(ConfigError, match="empty map"):
        Microscope(np.zeros((16, 16, 16)), SETTINGS)
