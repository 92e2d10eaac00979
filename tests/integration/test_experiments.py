"""`streamrecon experiments` as a user runs it, in the smallest form: run, stop, go on, report."""

import csv
import json
import threading

import pytest
from PIL import Image
from typer.testing import CliRunner

from streamrecon.cli import experiments as verb
from streamrecon.cli.main import app

PLAN = """
name = "tiny"
[data]
box_size = 32
snr = 0.3
mini_batch = 50
[stream]
images = 100
methods = ["sgd"]
checkpoints = []
held_out_images = 20
held_out_shells = 6
peers = ["em"]
peer_passes = 1
[starts]
starts = 1
images = 100
passes = 1
box_size = 32
search_shells = 5
in_plane_angles = 12
methods = ["projection_matching"]
kinds = ["random"]
[sampling]
bands = [4]
images = 2
map_images = 200
"""


@pytest.fixture(autouse=True)
def no_signal_handlers(monkeypatch):
    monkeypatch.setattr(verb, "stop_on_signals", threading.Event)


def experiments(*arguments):
    return CliRunner().invoke(app, ["experiments", *map(str, arguments)])


@pytest.mark.slow
def test_a_run_is_broken_off_goes_on_and_reports(tmp_path):
    plan, out = tmp_path / "plan.toml", tmp_path / "out"
    plan.write_text(PLAN)
    first = experiments("-c", plan, "-o", out, "--most", 2)
    assert first.exit_code == 130
    assert "go on with" in " ".join(first.output.split())  # lines are broken where the terminal ends
    kept = {path: path.read_bytes() for path in out.glob("cells/*/*.json")}
    assert len(kept) == 2
    second = experiments("-c", plan, "-o", out)
    assert second.exit_code == 0, second.output
    assert all(path.read_bytes() == content for path, content in kept.items())
    page = (out / "report.html").read_text()
    for name in ("maps.png", "curves.png", "fsc.png", "starts.png", "sampling.png"):
        assert name in page
        with Image.open(out / name) as picture:
            assert picture.width > 300
    with (out / "stream.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["sgd", "em"]
    assert [int(row["image_visits"]) for row in rows] == [100, 100]
    assert all(float(row["cpu_seconds"]) > 0 and float(row["fsc_05_angstrom"]) > 0 for row in rows)
    found = json.loads((out / "cells/sampling/band-04.json").read_text())["rows"][0]
    assert found["evaluations"] < found["grid_poses"]


def test_exactly_one_plan_is_asked_for(tmp_path):
    assert experiments("-o", tmp_path).exit_code == 2
    assert experiments("-o", tmp_path, "--quick", "--full").exit_code == 2
    assert experiments("-o", tmp_path, "--quick", "--part", "spam").exit_code == 2
