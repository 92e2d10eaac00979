"""``streamrecon reconstruct``: input that it cannot use gives one readable line and the code for it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from streamrecon.cli import exit_codes
from streamrecon.cli.main import app
from streamrecon.io import read_star, read_volume, write_stack, write_star
from streamrecon.simulate import Microscope, MicroscopeSettings
from streamrecon.simulate.specimen import density_from_model
from streamrecon.worker.revisits import Revisits

PIXEL = 6.4
HEADING = """
data_optics

loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
_rlnImageDimensionality
"""
PARTICLES = """
data_particles

loop_
_rlnImageName
_rlnOpticsGroup
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
"""


def star(path, rows, groups=((PIXEL, 32),)):
    """Write a STAR file of (image name, optics group) rows."""
    optics = "".join(f"{i} g{i} 300 2.7 0.1 {pixel} {box} 2\n" for i, (pixel, box) in enumerate(groups, 1))
    particles = "".join(f"{name} {group} 15000 14000 30\n" for name, group in rows)
    path.write_text(HEADING + optics + PARTICLES + particles)
    return path


def stack(path, n=4, box=32):
    write_stack(path, np.random.default_rng(n).standard_normal((n, box, box)).astype(np.float32), PIXEL)


def run(*arguments):
    return CliRunner().invoke(
        app, ["reconstruct", *[str(a) for a in arguments]], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )


def assert_one_line(outcome, code, *words):
    assert outcome.exit_code == code, outcome.output
    assert isinstance(outcome.exception, SystemExit)
    lines = [line for line in outcome.output.splitlines() if line.strip()]
    assert len(lines) == 1, outcome.output
    for word in words:
        assert str(word) in lines[0]


def test_a_missing_particle_file(tmp_path):
    outcome = run(tmp_path / "none.star", "-o", tmp_path / "out")
    assert_one_line(outcome, exit_codes.INPUT, tmp_path / "none.star")
    assert not (tmp_path / "out").exists()


def test_a_missing_stack(tmp_path):
    path = star(tmp_path / "p.star", [("1@gone.mrcs", 1)])
    assert_one_line(run(path, "-o", tmp_path / "out"), exit_codes.INPUT, "gone.mrcs")
    assert not (tmp_path / "out").exists()


def test_a_stack_shorter_than_its_rows(tmp_path):
    stack(tmp_path / "a.mrcs", n=3)
    path = star(tmp_path / "p.star", [("9@a.mrcs", 1)])
    assert_one_line(run(path, "-o", tmp_path / "out"), exit_codes.INPUT, "a.mrcs", "at least 9", "found 3")


def test_mixed_boxes(tmp_path):
    stack(tmp_path / "a.mrcs", box=32)
    stack(tmp_path / "b.mrcs", box=48)
    rows = [("1@a.mrcs", 1), ("1@b.mrcs", 2)]
    path = star(tmp_path / "p.star", rows, groups=((PIXEL, 32), (PIXEL, 48)))
    assert_one_line(run(path, "-o", tmp_path / "out"), exit_codes.INPUT, path, "32", "48")
    # one that the table does not tell of
    path = star(tmp_path / "q.star", [(name, 1) for name, _ in rows])
    assert_one_line(run(path, "-o", tmp_path / "out"), exit_codes.INPUT, "b.mrcs", "32", "48")


def test_mixed_pixel_sizes(tmp_path):
    stack(tmp_path / "a.mrcs")
    path = star(tmp_path / "p.star", [("1@a.mrcs", 1), ("2@a.mrcs", 2)], groups=((PIXEL, 32), (5.0, 32)))
    assert_one_line(run(path, "-o", tmp_path / "out"), exit_codes.INPUT, path, "6.4", "5")


def test_no_poses_to_use(tmp_path):
    stack(tmp_path / "a.mrcs", n=20)
    path = star(tmp_path / "p.star", [(f"{i + 1}@a.mrcs", 1) for i in range(20)])
    outcome = run(path, "-o", tmp_path / "out", "--given-poses")
    assert outcome.exit_code == exit_codes.INPUT
    assert "expected a rotation for every particle" in " ".join(outcome.output.split())
    assert "Traceback" not in outcome.output
    assert not (tmp_path / "out" / "volume.mrc").exists()


def test_a_bad_configuration(tmp_path):
    stack(tmp_path / "a.mrcs")
    path = star(tmp_path / "p.star", [("1@a.mrcs", 1)])
    config = tmp_path / "config.toml"
    config.write_text("[engine]\nsamples = 0\n[input]\ncontrast = 'green'\n")
    outcome = run(path, "-o", tmp_path / "out", "-c", config)
    assert outcome.exit_code == exit_codes.CONFIG
    assert "engine" in outcome.output
    assert "input.contrast" in outcome.output


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A stack of 200 good images, its truth, and a STAR file with the true poses."""
    folder = tmp_path_factory.mktemp("simulated")
    volume = density_from_model(None, 32, PIXEL)
    settings = MicroscopeSettings(pixel_size_angstrom=PIXEL, particles_per_micrograph=200, snr=1.0, seed=2)
    taken = Microscope(volume, settings).micrograph(0, "a.mrcs", "m.mrc")
    write_stack(folder / "a.mrcs", taken.images, PIXEL)
    table = taken.table
    write_star(folder / "p.star", table, rotation=table.rotation, shift_angstrom=table.shift_angstrom)
    return folder


def test_everything_is_written_and_the_limit_holds(simulated, tmp_path):
    outcome = run(simulated / "p.star", "-o", tmp_path, "--limit", "150")
    assert outcome.exit_code == 0, outcome.output
    names = {
        "volume.mrc",
        "half_a.mrc",
        "half_b.mrc",
        "fsc.csv",
        "status.json",
        "particles.star",
        "poses.rows",
        "poses.visits",
        "micrographs.csv",
    }
    assert {p.name for p in tmp_path.iterdir()} == names
    assert len(read_star(tmp_path / "particles.star")) == 150
    assert json.loads((tmp_path / "status.json").read_text())["particles_seen"] == 150
    assert "150 particles" in outcome.output
    # too few for a map
    assert "not converged" in outcome.output
    assert json.loads((tmp_path / "status.json").read_text())["stage"] == "searching"


def test_more_passes_are_refused_where_a_method_cannot_take_its_steps_back(simulated, tmp_path):
    (tmp_path / "c.toml").write_text('[engine]\nmethod = "sgd"\n')
    arguments = (simulated / "p.star", "-c", tmp_path / "c.toml", "--passes", "2")
    assert_one_line(run(*arguments, "-o", tmp_path / "out"), exit_codes.CONFIG, "sgd", "--passes 2", "online_em")
    assert not (tmp_path / "out").exists()


def test_more_passes_visit_each_particle_again_and_leave_no_store_behind(simulated, tmp_path):
    outcome = run(simulated / "p.star", "-o", tmp_path, "--limit", "120", "--passes", "3")
    assert outcome.exit_code == 0, outcome.output
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["particles_seen"], status["image_visits"]) == (120, 360)
    assert "360 image visits" in " ".join(outcome.output.split())
    table = read_star(tmp_path / "particles.star")
    assert len(table) == len(set(table.identities())) == 120
    assert [(tmp_path / f"poses.{kind}").read_bytes().count(b"\n") for kind in ("rows", "visits")] == [120, 240]
    assert not (tmp_path / "particles.store").exists()


SMALL = "[engine]\nsettle_images = 300\nstarts = 1\nsamples = 16\nsearch_shells = 8\n"


def test_a_small_set_is_visited_until_its_search_has_settled(simulated, tmp_path):
    (tmp_path / "c.toml").write_text(SMALL)
    outcome = run(simulated / "p.star", "-o", tmp_path / "out", "-c", tmp_path / "c.toml")
    assert outcome.exit_code == 0, outcome.output
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert status["stage"] != "searching"
    assert status["particles_seen"] == 200
    assert status["image_visits"] >= 400
    assert "not converged" not in outcome.output
    assert len(read_star(tmp_path / "out" / "particles.star")) == 200
    assert not (tmp_path / "out" / "particles.store").exists()
    # one pass is one pass to whoever asks for it
    outcome = run(simulated / "p.star", "-o", tmp_path / "one", "-c", tmp_path / "c.toml", "--passes", "1")
    assert json.loads((tmp_path / "one" / "status.json").read_text())["image_visits"] == 200


def test_ctrl_c_ends_its_visits_and_writes_what_there_is(simulated, tmp_path, monkeypatch):
    step, steps = Revisits.step, []

    def interrupted(self):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Revisits, "step", interrupted)
    (tmp_path / "c.toml").write_text(SMALL.replace("300", "3000"))
    outcome = run(simulated / "p.star", "-o", tmp_path / "out", "-c", tmp_path / "c.toml")
    assert outcome.exit_code == exit_codes.INTERRUPTED
    assert "not converged" in outcome.output
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["particles_seen"], status["image_visits"]) == (200, 300)
    assert len(read_star(tmp_path / "out" / "particles.star")) == 200
    assert not (tmp_path / "out" / "particles.store").exists()


def test_a_set_that_is_refined_in_one_pass_keeps_nothing(simulated, tmp_path, monkeypatch):
    monkeypatch.setattr("streamrecon.cli.reconstruct._refined", lambda status: True)
    outcome = run(simulated / "p.star", "-o", tmp_path, "--limit", "120")
    assert outcome.exit_code == 0, outcome.output
    assert json.loads((tmp_path / "status.json").read_text())["image_visits"] == 120
    assert not (tmp_path / "particles.store").exists()


def test_given_poses_are_used(simulated, tmp_path):
    outcome = run(simulated / "p.star", "-o", tmp_path, "--given-poses")
    assert outcome.exit_code == 0, outcome.output
    found, voxel = read_volume(tmp_path / "volume.mrc")
    truth = density_from_model(None, 32, PIXEL)
    assert voxel == pytest.approx(PIXEL)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.8
