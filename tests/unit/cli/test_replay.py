"""``replay session``: what it says, its exit codes, and the account it takes of a daemon."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from streamrecon.cli import acceptance
from streamrecon.cli.main import app
from streamrecon.config import Config
from streamrecon.errors import ManifestMismatch, StateError
from streamrecon.io import write_volume
from streamrecon.simulate import Microscope, MicroscopeSettings, SessionWriter


def blob(box=16, at=0.0):
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    return np.exp(-((x - at) ** 2 / 9 + y**2 / 4 + z**2 / 2)).astype(np.float32)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay") / "archive"
    microscope = Microscope(blob(), MicroscopeSettings(particles_per_micrograph=5, seed=1))
    SessionWriter(microscope, folder, folder.parent / "truth").run(20)
    return folder


def invoke(*arguments):
    environment = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["replay", "session", *map(str, arguments)], env=environment)


def test_a_dry_run_tells_the_plan_and_writes_nothing(archive, tmp_path):
    outcome = invoke(archive, tmp_path / "in", "--dry-run")
    assert outcome.exit_code == 0, outcome.output
    assert "20 particles in 4 stacks, 5 STAR or .cs files" in outcome.output
    assert not (tmp_path / "in").exists()


def test_it_replays_and_the_second_time_there_is_nothing_left(archive, tmp_path):
    assert invoke(archive, tmp_path / "in", "--speed", "inf").exit_code == 0
    assert len(list((tmp_path / "in").rglob("*.mrcs"))) == 4
    outcome = invoke(archive, tmp_path / "in", "--speed", "inf")
    assert outcome.exit_code == 0
    assert "0 of 9 arrivals are left" in outcome.output


def test_what_does_not_fit_together_is_refused(archive, tmp_path):
    assert invoke(tmp_path / "none", tmp_path / "in").exit_code == 2
    assert invoke(archive, archive / "in").exit_code == 2
    outcome = invoke(archive, tmp_path / "in", "--reference", tmp_path / "map.mrc")
    assert outcome.exit_code == 2
    assert "-c config.toml" in outcome.output


def test_a_daemon_that_never_was_is_told(archive, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f"[session]\noutput_dir = {json.dumps(str(tmp_path / 'out'))}\n")
    outcome = invoke(archive, tmp_path / "in", "--speed", "inf", "-c", config, "--patience", "1")
    assert outcome.exit_code == 1
    assert "ledger" in outcome.output


PARTICLES = {Path("a/one.mrcs"): 60, Path("a/two.mrcs"): 40}


def account(monkeypatch, tmp_path, found, *, patience=0.0, reference=None):
    """Return (passed, what was printed) for a daemon whose status is ``found``, one after another."""
    answers = list(found)

    def status(config, now):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        folded, quarantined, entries, seen = answer
        return {
            "particles": {"folded": folded, "quarantined": quarantined},
            "quarantine": {"entries": entries},
            "reconstruction": None if seen is None else {"particles_seen": seen},
        }

    monkeypatch.setattr(acceptance, "session_status", status)
    monkeypatch.setattr(acceptance, "_POLL_SECONDS", 0.0)
    printed = io.StringIO()
    config = Config.model_validate({"session": {"output_dir": tmp_path}})
    passed = acceptance.check_session(config, PARTICLES, reference, patience, Console(file=printed, width=200))
    return passed, printed.getvalue()


def test_all_in_the_map_is_a_pass(monkeypatch, tmp_path):
    passed, said = account(monkeypatch, tmp_path, [(100, 0, [], 100)])
    assert passed
    assert "folded:                  100 (100 in the map on disk)" in said


def test_it_waits_for_the_ledger_the_particles_and_the_map(monkeypatch, tmp_path):
    steps = [StateError("no ledger yet"), (10, 0, [], None), (100, 0, [], 90), (100, 0, [], 100)]
    assert account(monkeypatch, tmp_path, steps, patience=60.0)[0]


def test_particles_set_aside_alone_or_with_their_stack_are_accounted_for(monkeypatch, tmp_path):
    alone = {"path": "a/two.mrcs", "identity": "000001@a/two.mrcs"}
    whole = {"path": "a/two.mrcs", "identity": ""}
    other = {"path": "readme.star", "identity": ""}
    assert account(monkeypatch, tmp_path, [(98, 2, [alone, alone, other], 98)])[0]
    assert account(monkeypatch, tmp_path, [(60, 0, [whole], 60)])[0]
    assert not account(monkeypatch, tmp_path, [(98, 0, [other], 98)])[0]


def test_missing_and_surplus_particles_fail(monkeypatch, tmp_path):
    passed, said = account(monkeypatch, tmp_path, [(97, 1, [], 97)])
    assert not passed
    assert "2 particles are neither" in said
    passed, said = account(monkeypatch, tmp_path, [(103, 0, [], 103)])
    assert not passed
    assert "3 particles more" in said


def test_a_reference_of_another_box_is_refused(monkeypatch, tmp_path):
    write_volume(tmp_path / "snapshots" / "volume.mrc", blob(16), 3.0)
    write_volume(tmp_path / "reference.mrc", blob(20), 3.0)
    with pytest.raises(ManifestMismatch, match="20 of 3 A"):
        account(monkeypatch, tmp_path, [(100, 0, [], 100)], reference=tmp_path / "reference.mrc")
