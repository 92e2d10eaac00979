"""RELION as an experiment's row: what it is given, and what is made of how it ends."""

import os

import numpy as np
import pytest

from streamrecon.experiments import relion
from streamrecon.experiments.plan import Data
from streamrecon.experiments.problem import make_problem
from streamrecon.io import read_images, read_manifest, write_volume

PARAMETERS = {"mode": "sgd", "images": 60, "iterations": [1, 2, 3], "limit_seconds": 200.0}


@pytest.fixture(scope="module")
def problem():
    return make_problem(Data(box_size=32, snr=1.0, mini_batch=50))


def stand_in(folder, script, monkeypatch):
    program = folder / relion.PROGRAM
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_particles_are_those_of_the_problem(tmp_path, problem):
    relion.write_particles(problem, 60, tmp_path)
    table = read_manifest(tmp_path / "particles.star", tmp_path)
    expected = list(problem.batches(60))
    np.testing.assert_allclose(read_images(table), np.concatenate([b.images for b in expected]), atol=1e-5)
    defocus = np.concatenate([b.table.defocus_u_angstrom for b in expected])
    np.testing.assert_allclose(table.defocus_u_angstrom, defocus, rtol=1e-5)
    assert table.rotation is None


def test_where_there_is_no_relion_the_row_says_so(problem, monkeypatch):
    monkeypatch.setattr(relion.shutil, "which", lambda name: None)
    (row,) = relion.run_relion(PARAMETERS, problem, lambda: False).rows
    assert row["ended"] == "not installed"


def test_its_last_map_is_held_against_the_truth(tmp_path, problem, monkeypatch):
    truth = tmp_path / "truth.mrc"
    write_volume(truth, problem.truth, problem.pixel_size_angstrom)
    script = f'echo "$@" > {tmp_path}/said; touch out_it000_class001.mrc; cp {truth} out_it001_class001.mrc'
    stand_in(tmp_path, script, monkeypatch)
    (row,) = relion.run_relion(PARAMETERS, problem, lambda: False).rows
    assert row["ended"] == "done"
    assert row["iterations"] == 1
    assert row["fsc_05_angstrom"] == pytest.approx(2 * problem.pixel_size_angstrom, rel=0.15)
    said = (tmp_path / "said").read_text()
    assert "--sgd --sgd_ini_iter 1 --sgd_inbetween_iter 2 --sgd_fin_iter 3" in said


@pytest.mark.parametrize(
    ("script", "limit_seconds", "word"),
    [("exit 3", 120.0, "exit code 3"), ("exec sleep 600", 1.0, "stopped after 1 s")],
)
def test_failures_and_time_limits_are_told(tmp_path, problem, monkeypatch, script, limit_seconds, word):
    stand_in(tmp_path, script, monkeypatch)
    (row,) = relion.run_relion({**PARAMETERS, "limit_seconds": limit_seconds}, problem, lambda: False).rows
    assert row["ended"] == word


def test_told_to_stop_nothing_is_kept(tmp_path, problem, monkeypatch):
    stand_in(tmp_path, "exec sleep 600", monkeypatch)
    assert relion.run_relion(PARAMETERS, problem, lambda: True) is None
