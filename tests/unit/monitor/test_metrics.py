import inspect
import re

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamrecon import errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.ingest.metrics import DROP_REASONS, FILE_STATES, QUARANTINE_KINDS, IngestMetrics
from streamrecon.monitor.control_metrics import ControlMetrics
from streamrecon.monitor.metrics import (
    CHANNELS,
    ERROR_KINDS,
    FOLDERS,
    NOTICE_OUTCOMES,
    IngestMetricsExporter,
    SupervisorMetrics,
    WorkerMetrics,
)
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.results import FSC_KINDS, STAGES, BatchResult, EngineStatus
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.stages import Stages

GROUPS = {
    "ingest": IngestMetricsExporter,
    "worker": WorkerMetrics,
    "supervisor": SupervisorMetrics,
    "control": ControlMetrics,
}


def samples_of(registry):
    text = generate_latest(registry).decode()
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


@pytest.fixture
def registry():
    return CollectorRegistry()


def make_status(**changes):
    values = {
        "stage": "settled",
        "particles_seen": 500,
        "image_visits": 600,
        "step": 5,
        "k_max": 12,
        "temperature": 1.5,
        "effective_sample_size": 3.0,
        "coarse_entropy": 0.5,
        "resolution_angstrom": 12.5,
        "fsc_kind": "common",
        "step_seconds": 0.4,
        "images_per_second": 250.0,
        "evaluations_per_image": 96.0,
        "log_evidence": 7.0,
    }
    return EngineStatus(**{**values, **changes})


def make_result(n=100):
    zeros = np.zeros(n, np.float32)
    return BatchResult(np.zeros((n, 3, 3), np.float32), np.zeros((n, 2), np.float32), zeros, zeros, zeros, 9600, 0.4)


def test_the_exporter_is_what_ingest_asks_for(registry):
    exporter: IngestMetrics = IngestMetricsExporter(registry)
    for name, method in inspect.getmembers(IngestMetrics, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(exporter, name)).parameters.keys() == {
                p for p in inspect.signature(method).parameters if p != "self"
            }


@pytest.mark.parametrize("subsystem", GROUPS)
def test_names_follow_the_rule_and_each_has_a_help_text(registry, subsystem):
    GROUPS[subsystem](registry)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len(families) >= 4
    for family in families:
        assert re.fullmatch(rf"streamrecon_{subsystem}_[a-z0-9_]+", family.name), family.name
        assert len(family.documentation) > 10, family.name
        assert not re.search(r"_(ms|milliseconds|mb|percent)$", family.name)
        for sample in family.samples:
            assert not sample.name.endswith("_created"), "created series are switched off"
            if family.type == "counter":
                assert sample.name.endswith("_total")


def test_the_texts_of_all_processes_put_together_are_one_valid_page():
    names = []
    for group in GROUPS.values():
        registry = CollectorRegistry()
        group(registry)
        names += [f.name for f in text_string_to_metric_families(generate_latest(registry).decode())]
    assert len(names) == len(set(names))


def test_every_labelled_child_is_there_from_the_start():
    for group, calls in (
        (IngestMetricsExporter, ingest_calls),
        (WorkerMetrics, worker_calls),
        (SupervisorMetrics, supervisor_calls),
        (ControlMetrics, control_calls),
    ):
        registry = CollectorRegistry()
        metrics = group(registry)
        before = set(samples_of(registry))
        calls(metrics)
        assert set(samples_of(registry)) == before, group


def control_calls(metrics):
    metrics.command("pause")
    metrics.command("a verb of tomorrow")
    metrics.message_refused("replayed")
    metrics.message_refused("something new")
    metrics.peer_refused("unknown_key")
    metrics.peer_refused("something new")
    metrics.paused(True)


def ingest_calls(metrics):
    metrics.stack_ready(10)
    metrics.batch_queued(10)
    metrics.batch_folded(10)
    for kind in (*QUARANTINE_KINDS, "made up"):
        metrics.quarantined(kind)
    for state in (*FILE_STATES, "made up"):
        metrics.files("stack", state, 1)
        metrics.files("manifest", state, 1)
    for reason in (*DROP_REASONS, "made up"):
        metrics.message_dropped(reason)
    metrics.orphans(1)
    metrics.particles(1, 2, 3)
    metrics.queue_depth(4)
    metrics.lag_seconds(5.0)
    metrics.scan_seconds(0.1)
    metrics.watch_mode("polling")
    metrics.root_present(True)
    metrics.workers(1)
    metrics.lease_expired(2)


def supervisor_calls(metrics):
    metrics.up("ingest", True)
    metrics.restarted("worker")
    for folder in FOLDERS:
        metrics.filesystem(folder, 1.0, 2.0)
    for channel in CHANNELS:
        for outcome in NOTICE_OUTCOMES:
            metrics.notice(channel, outcome)


def every_error():
    todo, found = [errors.StreamReconError], []
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return found


def worker_calls(metrics):
    for stage in ("waiting", "searching", "settled", "made up"):
        metrics.status(make_status(stage=stage, fsc_kind=stage))
    metrics.batch_folded(make_result(), 100)
    metrics.batch_dropped()
    metrics.unacknowledged(3)
    metrics.snapshot_written(0.1)
    metrics.checkpoint_durable(1000, 0.1)
    metrics.subscribers(2)
    metrics.gpu_memory(1, 2)
    for kind in every_error():
        metrics.error(kind("x"))
    metrics.error(OSError("x"))


def test_every_kind_of_the_error_tree_has_its_own_series(registry):
    metrics = WorkerMetrics(registry)
    assert {kind("").kind for kind in every_error()} < set(ERROR_KINDS)
    metrics.error(errors.CheckpointCorrupt("x"))
    found = samples_of(registry)
    assert found["streamrecon_worker_errors_total", (("kind", "checkpoint_corrupt"),)] == 1
    assert found["streamrecon_worker_errors_total", (("kind", "state_error"),)] == 0


def test_worker_values_arrive(registry):
    metrics = WorkerMetrics(registry)
    assert np.isnan(samples_of(registry)["streamrecon_worker_resolution_angstrom", ()])
    metrics.status(make_status())
    metrics.batch_folded(make_result(100), 120)
    found = samples_of(registry)
    assert found["streamrecon_worker_resolution_angstrom", ()] == 12.5
    assert found["streamrecon_worker_particles_folded_total", ()] == 100
    assert found["streamrecon_worker_image_visits_total", ()] == 120
    assert found["streamrecon_worker_step_seconds_sum", ()] == pytest.approx(0.4)
    stages = {k[1][0][1]: v for k, v in found.items() if k[0] == "streamrecon_worker_stage"}
    assert stages == {"waiting": 0, "searching": 0, "settled": 1, "refining": 0, "other": 0}
    assert found["streamrecon_worker_resident_memory_bytes", ()] > 1e6


def test_every_stage_and_kind_of_fsc_that_the_engine_reports_has_a_series(registry):
    """Driven through all its stages, the engine says nothing that would be counted as "other"."""
    engine = Engine(EngineSettings(starts=1), 32, 6.4, CpuBackend(1))
    said = [engine.status]
    stages: Stages = engine._starts[0]._progress.stages
    engine._starts[0]._progress.done.particles_seen = 1
    said.append(engine.status)
    stages.settle(0.5)
    said.append(engine.status)
    stages.hand_over(20)
    stages.split = True
    said.append(engine.status)
    assert {status.stage for status in said} == set(STAGES)
    assert {status.fsc_kind for status in said} == set(FSC_KINDS)
    assert len({status.stage_reason for status in said}) == 3
    metrics = WorkerMetrics(registry)
    for status in said:
        metrics.status(status)
        found = samples_of(registry)
        assert found["streamrecon_worker_stage", (("stage", status.stage),)] == 1
        assert found["streamrecon_worker_fsc_kind", (("kind", status.fsc_kind),)] == 1
        assert sum(v for k, v in found.items() if k[0] == "streamrecon_worker_stage") == 1


def test_the_age_of_the_checkpoint_grows_by_itself_and_falls_with_the_next(registry, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("streamrecon.monitor.metrics.time.monotonic", lambda: now[0])
    metrics = WorkerMetrics(registry)
    now[0] = 130.0
    key = ("streamrecon_worker_checkpoint_age_seconds", ())
    assert samples_of(registry)[key] == 30.0
    metrics.checkpoint_durable(10, 0.1)
    now[0] = 131.0
    assert samples_of(registry)[key] == 1.0
