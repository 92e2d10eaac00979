"""``streamrecon demo``: what a newcomer runs first."""

import re

import matplotlib.image
import numpy as np
import pytest

from streamrecon.io import read_star, read_volume
from tests.e2e.daemon import streamrecon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PARTICLES = 4000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, streamrecon("demo", "--particles", PARTICLES, "--rate", 0, "--output", folder, timeout=600)


def test_it_reaches_its_target_and_says_so(demo):
    _, done = demo
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert f"{PARTICLES} of {PARTICLES} particles folded" in said
    assert re.search(r"hand: the (true|other) hand", said)
    resolution, target = re.search(r"against the truth: FSC 0\.5 at ([\d.]+) Å \(target ([\d.]+) Å\)", said).groups()
    assert float(resolution) <= float(target)
    assert re.search(r"between the halves: FSC 0\.143 at [\d.]+ Å", said)
    assert said.endswith("passed")


def test_it_leaves_what_it_names(demo):
    folder, _ = demo
    truth, _ = read_volume(folder / "truth" / "truth.mrc")
    volume, voxel = read_volume(folder / "session" / "snapshots" / "volume.mrc")
    assert volume.shape == truth.shape == (64, 64, 64)
    assert voxel == pytest.approx(3.2)
    names = read_star(folder / "session" / "particles.star").identities()
    assert len(names) == len(set(names)) == PARTICLES


def test_the_contact_sheet_is_a_picture(demo):
    folder, _ = demo
    picture = matplotlib.image.imread(folder / "contact_sheet.png")
    height, width, _ = picture.shape
    assert height > 500
    assert width > 1000
    grey = picture[..., :3].mean(axis=2)
    # maps above, in greys; curves below: neither half is blank
    for part in (grey[: height // 2], grey[height // 2 :]):
        assert part.std() > 0.05
        assert len(np.unique(np.rint(part * 255))) > 50


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    done = streamrecon("demo", "--output", tmp_path)
    assert done.returncode not in (0, 2)
    assert str(tmp_path) in "".join(done.stderr.split("\n"))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
