"""RELION as the other opinion on postprocessing and on the orientation of point groups."""

import re
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import scipy.fft
from gemmi import cif

from streamrecon.assess.fsc_curves import fsc_curves
from streamrecon.assess.half_maps import assess_half_maps
from streamrecon.assess.masks import automatic_mask
from streamrecon.assess.sharpening import sharpened_map
from streamrecon.assess.symmetry import impose_symmetry
from streamrecon.fourier.shells import shell_index_rfft, shell_sums
from streamrecon.geometry.symmetry import symmetry_operators
from streamrecon.io import read_volume, write_volume
from streamrecon.io.postprocess_star import write_postprocess_star
from streamrecon.simulate.specimen import density_from_model

BOX, VOXEL = 96, 2.2
pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(
        which("relion_postprocess") is None, reason="RELION's programs are not on PATH (Debian: relion)"
    ),
]


def relion(folder: Path, command: str) -> str:
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("group", ["C1", "C3", "C7", "D2", "D3", "D7", "T", "O", "I"])
def test_operators_are_relions(tmp_path: Path, group: str) -> None:
    text = relion(tmp_path, f"relion_refine --sym {group} --print_symmetry_ops")
    rows = [line.split() for line in text.splitlines() if re.fullmatch(r"(\s*-?[0-9.e-]+){3}\s*", line)]
    theirs = np.array(rows, float).reshape(-1, 3, 3)
    ours = symmetry_operators(group)
    assert len(theirs) == len(ours)
    # as sets: RELION prints five decimals
    distance = np.abs(theirs[:, None] - ours).max(axis=(2, 3))
    assert distance.min(axis=1).max() < 2e-5
    assert sorted(distance.argmin(axis=1)) == list(range(len(ours)))


@pytest.fixture(scope="module")
def halves() -> tuple[np.ndarray, np.ndarray]:
    """The truth with white noise, such that the unmasked halves part at a third of Nyquist."""
    truth = density_from_model(None, BOX, VOXEL, b_factor=150.0)
    index = shell_index_rfft(BOX)
    power = shell_sums(np.abs(scipy.fft.rfftn(truth)) ** 2, index, BOX // 2 + 1)
    sigma = np.sqrt(14 * power[24] / shell_sums(np.ones(index.shape), index, BOX // 2 + 1)[24] / BOX**3)
    rng = np.random.default_rng(7)
    first, second = (truth + sigma * rng.standard_normal(truth.shape) for _ in range(2))
    return first.astype(np.float32), second.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, halves: tuple[np.ndarray, np.ndarray]) -> Path:
    """What relion_postprocess makes of the halves under our mask."""
    out = tmp_path_factory.mktemp("relion")
    mask = automatic_mask(*halves, VOXEL)
    for name, volume in (("half1", halves[0]), ("half2", halves[1]), ("mask", mask)):
        write_volume(out / f"{name}.mrc", volume, VOXEL)
    (out / "pp").mkdir()
    relion(
        out,
        f"relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix {VOXEL} --auto_bfac --low_pass -1 "
        "--o pp/post",
    )
    return out


def curve(block: cif.Block, name: str) -> np.ndarray:
    return np.array([float(x) for x in block.find_loop(f"_{name}")])


CORRECTED = "rlnFourierShellCorrelationCorrected"
UNMASKED = "rlnFourierShellCorrelationUnmaskedMaps"
MASKED = "rlnFourierShellCorrelationMaskedMaps"
RANDOMISED = "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"


def test_curves_resolution_and_b_factor_are_relions(folder: Path, halves: tuple[np.ndarray, np.ndarray]) -> None:
    mask = read_volume(folder / "mask.mrc")[0]
    found = assess_half_maps(*halves, VOXEL, mask)
    document = cif.read(str(folder / "pp" / "post.star"))
    fsc, general = document.find_block("fsc"), document.find_block("general")
    # the same arithmetic
    np.testing.assert_allclose(found.curves.unmasked[1:], curve(fsc, UNMASKED)[1:], atol=2e-4)
    np.testing.assert_allclose(found.curves.masked[1:], curve(fsc, MASKED)[1:], atol=2e-4)
    start = BOX * VOXEL / found.curves.randomised_from
    assert float(general.find_value("_rlnRandomiseFrom")) == pytest.approx(start, rel=1e-4)
    # other random phases: how far they carry, other seeds of ours tell
    others = [fsc_curves(*halves, VOXEL, mask, seed=seed) for seed in (1, 2, 3)]
    spread = max(np.abs(o.corrected - found.curves.corrected).max() for o in others)
    assert spread < 0.12
    np.testing.assert_allclose(found.curves.randomised[1:], curve(fsc, RANDOMISED)[1:], atol=0.2)
    np.testing.assert_allclose(found.curves.corrected[1:], curve(fsc, CORRECTED)[1:], atol=0.1)
    assert np.abs(found.curves.corrected - curve(fsc, CORRECTED))[1:].mean() < 0.02
    # one shell
    theirs = float(general.find_value("_rlnFinalResolution"))
    assert abs(BOX * VOXEL / found.curves.shell_resolution_angstrom - BOX * VOXEL / theirs) <= 1.01
    b = float(general.find_value("_rlnBfactorUsedForSharpening"))
    assert sharpened_map(*halves, VOXEL, curve(fsc, CORRECTED), theirs).fit.b_factor_angstrom2 == pytest.approx(
        b, rel=1e-4
    )
    # of our own random phases the fit is another, as of each seed
    assert found.sharpened.fit is not None
    assert found.sharpened.fit.b_factor_angstrom2 == pytest.approx(b, rel=0.25)


def test_sharpened_map_is_relions(folder: Path, halves: tuple[np.ndarray, np.ndarray]) -> None:
    mask = read_volume(folder / "mask.mrc")[0]
    theirs = read_volume(folder / "pp" / "post.mrc")[0]
    general = cif.read(str(folder / "pp" / "post.star")).find_block("general")
    b = float(general.find_value("_rlnBfactorUsedForSharpening"))
    ours = assess_half_maps(*halves, VOXEL, mask, b_factor_angstrom2=b).sharpened.volume
    inside = mask > 0.5
    assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.98


def test_star_file_has_relions_columns(folder: Path, halves: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    mask = read_volume(folder / "mask.mrc")[0]
    found = assess_half_maps(*halves, VOXEL, mask)
    write_postprocess_star(tmp_path / "postprocess.star", found, ("half 1.mrc", "half2.mrc"), "mask.mrc")
    ours, theirs = (cif.read(str(p)) for p in (tmp_path / "postprocess.star", folder / "pp" / "post.star"))
    for block in ("fsc", "guinier"):
        mine, other = (set(d.find_block(block)[0].loop.tags) for d in (ours, theirs))
        assert mine <= other
    general = ours.find_block("general")
    for item in general:
        assert theirs.find_block("general").find_value(item.pair[0]) is not None
    assert cif.as_string(general.find_value("_rlnUnfilteredMapHalf1")) == "half 1.mrc"
    np.testing.assert_allclose(curve(ours.find_block("fsc"), CORRECTED), found.curves.corrected, atol=1e-6)
    table = relion(tmp_path, "relion_star_printtable postprocess.star data_fsc rlnAngstromResolution")
    assert len(table.split()) == BOX // 2 + 1


@pytest.mark.parametrize("group", ["C3", "D2"])
def test_imposed_symmetry_is_relions(folder: Path, tmp_path: Path, group: str) -> None:
    """A specimen without symmetry, averaged over the group by both."""
    volume = read_volume(folder / "half1.mrc")[0]
    index = shell_index_rfft(BOX)
    smooth = scipy.fft.irfftn(scipy.fft.rfftn(volume) * (index <= 16), s=volume.shape).astype(np.float32)
    write_volume(tmp_path / "in.mrc", smooth, VOXEL)
    relion(tmp_path, f"relion_image_handler --i in.mrc --sym {group} --o out.mrc")
    theirs = read_volume(tmp_path / "out.mrc")[0]
    ours = impose_symmetry(smooth, group)
    z, y, x = np.indices(volume.shape) - BOX // 2
    ball = x**2 + y**2 + z**2 < (0.4 * BOX) ** 2
    assert np.corrcoef(ours[ball], theirs[ball])[0, 1] > 0.99
