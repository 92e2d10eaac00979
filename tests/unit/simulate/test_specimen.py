import gzip
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from streamrecon.errors import IngestError, ManifestMismatch, UnsupportedFormat
from streamrecon.io import read_volume, write_volume
from streamrecon.simulate import density_from_map, density_from_model

FIXTURE = Path(__file__).parents[2] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"
# electron scattering amplitudes at zero angle, angstrom (International Tables C, 4.3.2.2)
SCATTERING = {"C": 2.51, "N": 2.21, "O": 1.98, "S": 5.16, "P": 5.49, "MG": 5.21}


def atoms_of_the_bundled_model() -> tuple[np.ndarray, np.ndarray]:
    """Positions and scattering amplitudes, read from the PDB columns without gemmi."""
    text = gzip.decompress((files("streamrecon.simulate") / "1e79.pdb.gz").read_bytes()).decode()
    rows = [
        line
        for line in text.splitlines()
        if line.startswith(("ATOM", "HETATM")) and line[17:20] != "HOH" and line[76:78].strip() in SCATTERING
    ]
    positions = np.array([[float(line[30:38]), float(line[38:46]), float(line[46:54])] for line in rows])
    weights = np.array([SCATTERING[line[76:78].strip()] * float(line[54:60]) for line in rows])
    return positions, weights


def test_the_density_is_that_of_the_atoms_in_place_and_handedness() -> None:
    """Compare Fourier coefficients with the sum over atoms: a mirrored or shifted map has other phases."""
    box, pixel = 48, 4.2
    volume = density_from_model(None, box, pixel)
    assert volume.shape == (48, 48, 48)
    assert volume.dtype == np.float32
    positions, weights = atoms_of_the_bundled_model()
    rng = np.random.default_rng(0)
    k = rng.integers(-8, 9, (60, 3))  # (x, y, z), up to 1/25 angstrom
    center = np.average(positions, axis=0, weights=weights)
    expected = np.exp(-2j * np.pi / (box * pixel) * (positions - center) @ k.T).T @ weights
    spectrum = np.fft.fftn(np.fft.ifftshift(volume))
    found = spectrum[k[:, 2], k[:, 1], k[:, 0]]
    scale = np.vdot(expected, found) / np.vdot(expected, expected)
    assert scale.real > 0
    # the mass centre weighs atoms by mass, not scattering: a small common shift, hence 3 %
    assert np.linalg.norm(found / scale - expected) < 0.03 * np.linalg.norm(expected)


def test_a_model_that_does_not_fit_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(ManifestMismatch, match="make the box or the pixels larger"):
        density_from_model(None, 32, 3.0)
    with pytest.raises(IngestError, match=r"gone\.pdb"):
        density_from_model(tmp_path / "gone.pdb", 32, 3.0)
    (tmp_path / "empty.pdb").write_text("REMARK nothing here\nEND\n")
    with pytest.raises(IngestError, match=r"empty\.pdb"):
        density_from_model(tmp_path / "empty.pdb", 32, 3.0)


def test_a_map_on_its_own_grid_stays_as_it_is() -> None:
    volume, voxel_size = read_volume(FIXTURE)
    same = density_from_map(FIXTURE, 64, voxel_size, center=False)
    # an even grid's Nyquist plane has no definite phase and is left out
    assert np.linalg.norm(same - volume) < 0.01 * np.linalg.norm(volume)
    cropped = density_from_map(FIXTURE, 48, voxel_size, center=False)
    np.testing.assert_allclose(cropped, same[8:56, 8:56, 8:56], atol=1e-5)


def test_a_coarser_grid_is_the_fourier_crop() -> None:
    volume, voxel_size = read_volume(FIXTURE)
    coarse = density_from_map(FIXTURE, 32, 2 * voxel_size, center=False)
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))[17:48, 17:48, 17:48]
    padded = np.zeros((32, 32, 32), complex)
    padded[1:, 1:, 1:] = spectrum
    expected = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(padded))).real / 8
    np.testing.assert_allclose(coarse, expected, atol=1e-4 * expected.max())


def test_a_map_is_moved_to_its_centre_of_mass(tmp_path: Path) -> None:
    z, y, x = np.mgrid[:40, :40, :40]
    write_volume(tmp_path / "m.mrc", np.exp(-((x - 14.5) ** 2 + (y - 20) ** 2 + (z - 24) ** 2) / 8), 2.0)
    volume = density_from_map(tmp_path / "m.mrc", 32, 2.5)
    axis = (np.arange(32) - 16) * 2.5
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    np.testing.assert_allclose(volume, np.exp(-(x**2 + y**2 + z**2) / 32), atol=0.02)


def test_a_map_without_content(tmp_path: Path) -> None:
    write_volume(tmp_path / "m.mrc", np.ones((8, 8, 8)), 2.0)
    with pytest.raises(UnsupportedFormat, match=r"m\.mrc.*constant"):
        density_from_map(tmp_path / "m.mrc", 8, 2.0)
