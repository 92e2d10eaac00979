import csv
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from streamrecon.cli.main import app
from streamrecon.io import read_volume, write_volume

MAP = Path(__file__).parents[2] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"
VOXEL = 3.54


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    volume, _ = read_volume(MAP)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        noise = 1.2 * volume.std() * rng.standard_normal(volume.shape)
        write_volume(folder / f"{name}.mrc", volume + noise, VOXEL)
    return folder / "a.mrc", folder / "b.mrc"


def run(*arguments):
    return CliRunner().invoke(app, ["postprocess", *map(str, arguments)])


def corrected(folder):
    with (folder / "fsc.csv").open() as file:
        return np.array([float(row["fsc_corrected"]) for row in csv.DictReader(file)])


def test_everything_is_written_and_the_picture_shows_something(halves, tmp_path):
    done = run(*halves, "-o", tmp_path, "--local")
    assert done.exit_code == 0, done.output
    for name in ("sharpened.mrc", "mask.mrc", "local_resolution.mrc"):
        volume, voxel = read_volume(tmp_path / name)
        assert volume.shape == (64, 64, 64)
        assert voxel == pytest.approx(VOXEL)
    assert "corrected FSC 0.143" in done.output
    assert "data_fsc" in (tmp_path / "postprocess.star").read_text()
    picture = matplotlib.image.imread(tmp_path / "postprocess.png")
    assert picture.shape[0] > 600
    assert picture[..., :3].std() > 0.1


def test_symmetry_is_found_imposed_and_makes_the_halves_agree_more(halves, tmp_path):
    assert run(*halves, "-o", tmp_path / "c1").exit_code == 0
    done = run(*halves, "-o", tmp_path / "d2", "--symmetry", "auto")
    assert done.exit_code == 0, done.output
    assert "D2, imposed" in done.output
    assert corrected(tmp_path / "d2")[12:28].mean() > corrected(tmp_path / "c1")[12:28].mean() + 0.1
    assert (tmp_path / "d2" / "half_a_D2.mrc").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--symmetry", "C5"), 7, "symmetry C5"),
        (("--symmetry", "X9"), 2, "expected C1 to C99"),
        (("--mask", "none.mrc"), 5, "none.mrc"),
    ],
)
def test_what_cannot_be_done_says_why(halves, tmp_path, arguments, code, says):
    done = run(*halves, "-o", tmp_path, *arguments)
    assert done.exit_code == code
    assert says in " ".join(done.output.split())


def test_halves_of_different_maps_are_refused(halves, tmp_path):
    write_volume(tmp_path / "small.mrc", np.zeros((32, 32, 32), np.float32), VOXEL)
    done = run(halves[0], tmp_path / "small.mrc", "-o", tmp_path)
    assert done.exit_code == 5
    assert "two halves of one reconstruction" in " ".join(done.output.split())
