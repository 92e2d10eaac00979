"""``streamrecon status`` and ``quarantine`` over a real ledger, beside an ingester that runs and without one."""

import json
import threading
import time
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from streamrecon.cli.ingest import ingest_settings
from streamrecon.cli.main import app
from streamrecon.config import load_config
from streamrecon.ingest.service import IngestService
from streamrecon.reconstruct.results import EngineState
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.main import exclusive
from tests.integration.ingest_helpers import CountingMetrics, put_stack_and_star

CONFIG = """
[session]
name = "night [1]"
output_dir = "out"
[watch]
root = "in"
settle_seconds = 0.05
scan_seconds = 0.1
orphan_seconds = 0.5
[feed]
endpoint = "tcp://127.0.0.1:0"
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


class Watching(CountingMetrics):
    def __init__(self):
        super().__init__()
        self.open, self.dismissed, self.retries = {}, 0, 0

    def quarantine(self, open_kinds, dismissed):
        self.open, self.dismissed = dict(open_kinds), dismissed

    def retried(self):
        self.retries += 1


@contextmanager
def ingesting(config):
    """Run the ingester's loop in a thread; give what it counts."""
    stop, started, metrics = threading.Event(), threading.Event(), Watching()

    def run():
        service = IngestService(ingest_settings(load_config(config)), metrics)
        started.set()
        service.run(stop)

    thread = threading.Thread(target=run)
    with capture_logs():  # else its lines would stand among what the verbs print
        thread.start()
        try:
            assert started.wait(60)
            yield metrics
        finally:
            stop.set()
            thread.join(60)


def call(*arguments):
    outcome = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "250"})
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
    return outcome


def status_of(config):
    outcome = call("status", "-c", config, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def break_stack(path):
    good = path.read_bytes()
    path.write_bytes(good[:12] + b"\x63\0\0\0" + good[16:])
    return good


def test_it_says_how_many_files_hold_images_of_others(config, tmp_path):
    for name in ("good.mrcs", "again.mrcs", "third.mrcs"):
        put_stack_and_star(tmp_path / "in", name, seed=4)
    put_stack_and_star(tmp_path / "in", "other.mrcs")
    with ingesting(config):
        wait_for(lambda: status_of(config)["stacks"] == {"ready": 4})
    found = status_of(config)
    assert found["copies"] == 2
    assert sum(found["particles"].values()) == 10
    assert "2 hold images of others" in " ".join(call("status", "-c", config).output.split())


def test_a_running_session_and_the_same_after_it_has_ended(config, tmp_path):
    put_stack_and_star(tmp_path / "in")
    broken, _ = put_stack_and_star(tmp_path / "in", "bad[1].mrcs")
    break_stack(broken)
    lonely, star = put_stack_and_star(tmp_path / "in", "lonely.mrcs")
    star.unlink()
    with ingesting(config):
        settled = {
            "stacks": {"ready": 1, "quarantined": 1, "orphan": 1},
            "manifests": {"ready": 2},
            "batches": {"queued": 1},
        }
        wait_for(lambda: settled.items() <= status_of(config).items())
        found = status_of(config)
        assert found["running"] == {"ingest": True, "worker": False}
        assert found["particles"]["queued"] == 5
        assert len(found["orphans"]) == 1
        assert 0 < found["lag_seconds"] < 600
        assert found["orphans"][0]["name"] == "lonely.mrcs"
        assert str(lonely) in found["orphans"][0]["reason"]
        (entry,) = found["quarantine"]["entries"]
        assert entry["path"] == "bad[1].mrcs"
        assert "mode" in entry["reason"]
        assert found["reconstruction"] is found["checkpoint"] is None
        assert "worker does not run, 5 particles wait" in found["attention"]
    after = status_of(config)
    assert after["running"] == {"ingest": False, "worker": False}
    assert {k: after[k] for k in ("stacks", "manifests", "batches", "particles")} == {
        k: found[k] for k in ("stacks", "manifests", "batches", "particles")
    }
    shown = call("status", "-c", config)
    for text in ("night [1]", "ingest down", "1 orphan", "bad[1].mrcs", "lonely.mrcs", "1 open, 0 dismissed"):
        assert text in shown.output
    assert call("status", "-c", config, "--check").exit_code == 8


def test_the_map_and_the_checkpoint(config, tmp_path):
    with ingesting(config):
        pass
    assert call("status", "-c", config, "--check").exit_code == 0
    CheckpointStore(tmp_path / "out" / "checkpoints").save(EngineState({}, {}), {})
    folder = tmp_path / "out" / "snapshots"
    folder.mkdir()
    fields = {"stage": "settled", "particles_seen": 900, "resolution_angstrom": 8.25, "fsc_threshold": 0.143}
    (folder / "status.json").write_text(json.dumps({**fields, "fsc_kind": "independent"}))
    with exclusive(tmp_path / "out"):
        found = status_of(config)
    assert found["running"] == {"ingest": False, "worker": True}
    assert found["reconstruction"].items() >= fields.items()
    assert found["checkpoint"]["number"] == 1
    assert 0 <= found["checkpoint"]["age_seconds"] < 600
    shown = call("status", "-c", config).output
    assert "settled, 900 particles in the map" in shown
    assert "8.2 Å at FSC 0.143, independent halves" in shown
    (folder / "status.json").write_text("{")
    assert status_of(config)["reconstruction"] is None


def test_no_session_is_an_error_with_a_remedy(config):
    outcome = call("status", "-c", config)
    assert outcome.exit_code == 1
    assert "expected a ledger, found none" in outcome.output
    assert call("quarantine", "-c", config).exit_code == 1


def test_a_running_ingester_does_what_people_ask(config, tmp_path):
    broken, _ = put_stack_and_star(tmp_path / "in", "bad[1].mrcs")
    good = break_stack(broken)
    with ingesting(config) as metrics:
        wait_for(lambda: metrics.open == {"unsupported_format": 1})
        listed = json.loads(call("quarantine", "-c", config, "--json").stdout)
        assert [e["path"] for e in listed] == ["bad[1].mrcs"]
        assert call("quarantine", "-c", config, "dismiss", "bad[1].mrcs").output.strip() == "1 dismissed"
        wait_for(lambda: metrics.open == {} and metrics.dismissed == 1)
        assert json.loads(call("quarantine", "-c", config, "--json").stdout)[0]["dismissed_at"] > 0
        assert status_of(config)["quarantine"]["open"] == 0
        # still wrong: it comes back, open
        outcome = call("quarantine", "-c", config, "retry", "bad*")
        assert "1 to be looked at again; ingest looks again within seconds" in outcome.output
        wait_for(lambda: metrics.retries == 1 and metrics.open == {"unsupported_format": 1})
        broken.write_bytes(good)
        wait_for(lambda: metrics.open == {} and status_of(config)["stacks"] == {"ready": 1})
    assert status_of(config)["quarantine"]["retries_asked"] == 0


def test_what_is_asked_while_nobody_runs_is_done_at_the_next_start(config, tmp_path):
    broken, _ = put_stack_and_star(tmp_path / "in", "bad.mrcs")
    break_stack(broken)
    with ingesting(config) as metrics:
        wait_for(lambda: metrics.open)
    outcome = call("quarantine", "-c", config, "retry", "--all")
    assert "ingest is not running" in outcome.output
    assert status_of(config)["quarantine"]["retries_asked"] == 1
    with ingesting(config) as metrics:
        wait_for(lambda: metrics.retries == 1 and metrics.open == {"unsupported_format": 1})
    assert status_of(config)["quarantine"]["retries_asked"] == 0


def test_names_that_mean_nothing_are_refused(config):
    with ingesting(config):
        pass
    outcome = call("quarantine", "-c", config, "retry", "no.mrcs")
    assert outcome.exit_code == 2
    assert "'no.mrcs'" in outcome.output
    assert call("quarantine", "-c", config, "dismiss").exit_code == 2
    assert "nothing was set aside" in call("quarantine", "-c", config).output
