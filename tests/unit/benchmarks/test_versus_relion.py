"""The comparison with RELION: its commands, its files on the way, and what is said of two runs."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import relion_peer, versus_relion
from benchmarks.common import Specimen
from benchmarks.watched import Found
from streamrecon.io import write_volume


@pytest.mark.relion
@pytest.mark.skipif(bool(relion_peer.missing_programs()), reason="RELION's programs are not on PATH (Debian: relion)")
def test_every_option_is_one_that_relion_has():
    commands = [
        relion_peer.initial_model("p.star", "out/run", 180.0, 2, 1, relion_peer.Schedule()),
        relion_peer.auto_refine("p.star", "map.mrc", "out/run", 180.0, 2, 1, own_scale=False),
    ]
    known = set(re.findall(r"(--\w+)", relion_peer.help_text()))
    for command in commands:
        program = next(i for i, word in enumerate(command) if word.startswith("relion_refine"))
        options = {word for word in command[program:] if word.startswith("--")}
        assert options <= known


def test_visits_of_the_window_s_sgd():
    """50 iterations of 100, 200 that grow to 500 by 2 an iteration, 50 of 500."""
    schedule = relion_peer.Schedule()
    assert schedule.phases() == (50, 200, 50)
    assert schedule.visits(50) == 5_000
    assert schedule.visits(250) == 5_000 + 200 * 100 + 200 * 201
    assert schedule.visits(300) == 5_000 + 200 * 100 + 200 * 201 + 25_000
    assert relion_peer.Schedule(0.1).phases() == (5, 20, 5)


def test_an_iteration_counts_once_all_its_files_are_there(tmp_path):
    iterations = relion_peer.Iterations(tmp_path, images=300)
    for number in (0, 1, 2):
        for half in (1, 2):
            (tmp_path / f"run_it{number:03d}_half{half}_class001.mrc").touch()
        (tmp_path / f"run_it{number:03d}_optimiser.star").touch()
    (tmp_path / "run_it001_sampling.star").touch()
    (found,) = iterations.new()
    assert (found.label, found.visits, len(found.maps)) == ("iteration 1", 300, 2)
    assert iterations.new() == []
    for name in ("run_it002_sampling.star", "run_class001.mrc", "run_data.star"):
        (tmp_path / name).touch()
    assert [(f.label, f.visits) for f in iterations.new()] == [("iteration 2", 600), ("final", 600)]


def points(*triples):
    return [
        versus_relion.Point(Found((Path("map.mrc"),), f"{visits} visits", visits, core_seconds, core_seconds / 2), fsc)
        for visits, core_seconds, fsc in triples
    ]


def test_time_to_a_resolution_is_that_of_the_first_map_there():
    curve = points((100, 5.0, 60.0), (200, 10.0, 24.0), (300, 15.0, 26.0), (400, 20.0, 19.0))
    assert versus_relion.first_at(curve, 25.0).found.core_seconds == 10.0
    assert versus_relion.first_at(curve, 15.0) is None
    rows = {row["FSC 0.5 at"]: row for row in versus_relion.level_rows({"us": curve})}
    assert rows["20 A"]["us: visits"] == 400
    assert rows["15 A"]["us: core-s"] is None


def test_ratios_say_when_they_are_only_bounds():
    ours, theirs = points((1, 10.0, 19.0)), points((1, 50.0, 28.0))
    lines = versus_relion.ratios(ours, theirs, 200.0, "it")
    assert lines[0].endswith("it 50 core-s: 5.0 times")
    assert lines[1].endswith("it not in 200 core-s: more than 20 times")
    assert len(lines) == 3  # 30, 25 and 20 A: we did not come further


def test_a_map_is_judged_by_the_mean_of_its_halves(tmp_path):
    """A map of either hand, turned, is aligned first; noise that the halves do not share averages out."""
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[-16:16, -16:16, -16:16]
    truth = sum(
        np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4) for a, b, c in ((5, 1, 0), (-4, 5, 2), (0, -6, -5))
    ).astype(np.float32)
    turned = np.rot90(truth[::-1], axes=(1, 2))
    paths = []
    for half in (1, 2):
        noisy = (turned + rng.normal(0, 0.02, truth.shape)).astype(np.float32)
        paths.append(tmp_path / f"half{half}.mrc")
        write_volume(paths[-1], noisy, 3.0)
    judge = versus_relion.Judge(Specimen("blobs", truth, 3.0, 1))
    assert judge.resolution(paths) < 12.0
    write_volume(tmp_path / "empty.mrc", np.zeros_like(truth), 3.0)
    assert judge.resolution([tmp_path / "empty.mrc"]) == np.inf
