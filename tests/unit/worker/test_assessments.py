"""Assessments beside the worker: what they find, when they run, and that no failure of theirs stops anything."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import FakePublisher, Ledger, make_batch
from prometheus_client import CollectorRegistry
from sessions import Session, make_config

from streamrecon.config.model import AssessConfig, Config
from streamrecon.errors import NumericalError
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.rotation import random_rotations
from streamrecon.io import read_volume, write_volume
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.reconstruct.results import EngineStatus, GroupHealth, Snapshot
from streamrecon.transport import drafts, schema
from streamrecon.worker import assessments as assessments_module
from streamrecon.worker.assessing import SnapshotAssessor
from streamrecon.worker.assessments import Assessments
from streamrecon.worker.assessor import Assessor
from streamrecon.worker.session_history import SessionHistory, thinned
from streamrecon.worker.tallies import Tallies, views_of

MAP = Path(__file__).parents[2] / "fixtures" / "beta_galactosidase_64_3.54A.mrc"
VOXEL = 3.54


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """The end waits for the last assessment, whose thread has the lowest claim to a busy machine."""
    monkeypatch.setattr(assessments_module, "FINISH_SECONDS", 300.0)


def status(particles=5000, stage="refining", k_max=30, kind="gold_standard"):
    return EngineStatus(
        stage=stage, particles_seen=particles, image_visits=particles, step=50, k_max=k_max, temperature=1.0,
        effective_sample_size=2.0, coarse_entropy=0.1, resolution_angstrom=9.0, fsc_kind=kind, step_seconds=0.1,
        images_per_second=100.0, evaluations_per_image=96.0, log_evidence=50.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def snapshot():
    volume, _ = read_volume(MAP)
    rng = np.random.default_rng(0)
    half_a, half_b = (
        (volume + 0.7 * volume.std() * rng.standard_normal(volume.shape)).astype(np.float32) for _ in "ab"
    )
    fsc = np.where(np.arange(33) < 31, 0.9, 0).astype(np.float32)
    health = GroupHealth("opticsGroup1", 5000, 50.0, float("nan"), 1.02, 0.97)
    noise = np.ones((1, 33))
    mean = (half_a + half_b) / 2
    return Snapshot(mean, half_a, half_b, fsc, VOXEL, 9.0, 0.143, status(), noise, (health,))


def some_views(n=5000, seed=0):
    tallies = Tallies()
    rng = np.random.default_rng(seed)
    tallies.add(views_of(random_rotations(rng, n)), rng.uniform(8000, 24000, n))
    return tallies.told(Orientation())


def test_a_snapshot_is_assessed_and_fits_a_header(snapshot, tmp_path):
    assess = SnapshotAssessor(AssessConfig(), 0.0, SessionHistory())
    found = assess.assess(snapshot, some_views())
    one = found.assessment
    assert 7 < one.resolution_masked_angstrom < one.resolution_half_angstrom < 15
    assert one.resolution_masked_angstrom < one.resolution_unmasked_angstrom
    assert len(one.fsc_corrected) == 33
    assert one.angular_efficiency > 0.95
    assert one.tilt_suggestion_degrees == 0
    assert sum(one.angular_counts) == sum(one.defocus_counts) == 5000
    assert one.symmetry.group == "D2"
    assert not one.symmetry.asked
    assert one.optics_groups[0].mean_effective_sample_size is None
    assert one.optics_groups[0].inlier_share == 0.97
    # as JSON and over the wire
    assess.write(tmp_path, found)
    kept = json.loads((tmp_path / "assessment.json").read_text())
    assert kept["resolution_masked_angstrom"] == one.resolution_masked_angstrom
    assert kept["particles_seen"] == 5000
    assert read_volume(tmp_path / "sharpened.mrc")[0].shape == (64, 64, 64)
    assert read_volume(tmp_path / "mask.mrc")[0].max() == pytest.approx(1)
    message = drafts.assessment_draft(one, snapshot.status, 1.0).build("s", 1)
    assert schema.deserialize([bytes(f) for f in schema.serialize(message)]) == message
    # the same map again: the search for axes is not made anew
    again = assess.assess(snapshot, some_views()).assessment
    assert again.symmetry is one.symmetry


def test_the_largest_header_stays_within_the_limit(snapshot):
    config = AssessConfig(find_symmetry=False, target_angstrom=(8, 7, 6, 5, 4, 3.5, 3, 2.5))
    history = SessionHistory()
    for i in range(1000):
        history.add(status(1000 + 100 * i, k_max=300), 9 - 0.004 * i, 64 * VOXEL, float(i))
    found = SnapshotAssessor(config, 0.0, history).assess(snapshot, some_views()).assessment
    long = [-0.1234] * 257
    groups = [GroupHealth("a very long name of an optics group " * 9, 10**6, 12.34567, 1.234567, 1.0, 0.9)] * 500
    noisy = Snapshot(**{**vars(snapshot), "optics_groups": tuple(groups), "noise_variance": np.full((500, 257), np.pi)})
    many = SnapshotAssessor(config, 0.0, history).assess(noisy, some_views()).assessment
    fields = {**vars(many), **dict.fromkeys(("fsc_unmasked", "fsc_masked", "fsc_randomised", "fsc_corrected"), long)}
    fields["angular_counts"] = [10**6] * 768
    assert len(fields["forecast"]) == 8
    assert found.fit is not None
    message = drafts.assessment_draft(type(many)(**fields), snapshot.status, 1.0).build("s" * 64, 2**50)
    assert len(schema.serialize(message)[1]) < schema.MAX_HEADER_BYTES


def test_views_and_defocus_survive_a_restart(tmp_path):
    ledger = Ledger({i: make_batch(i) for i in range(1, 7)})
    session = Session(tmp_path, ledger)
    session.start()
    before = session.reconstruction.told()
    assert before.angular.sum() == before.defocus.sum() == 120
    ledger.batches[7] = make_batch(7)
    session.start()
    after = session.reconstruction.told()
    assert after.angular.sum() == after.defocus.sum() == 140
    # all at the identity, the beam along z
    assert np.flatnonzero(after.angular).tolist() == np.flatnonzero(before.angular).tolist()
    assert after.defocus[15] == 140


def wait_until(condition):
    for _ in range(9000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come")


class Recorder:
    def __init__(self, failing=()):
        self.assessed, self.failing = [], set(failing)
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()

    def assess(self, snapshot, told):
        self.entered.set()
        assert self.go.wait(120)
        self.assessed.append(snapshot)
        if snapshot in self.failing:
            raise NumericalError(f"no {snapshot}")
        return snapshot

    def write(self, folder, assessed):
        pass


def wait_for(assessor):
    """Poll until something comes, as the worker's loop does."""
    for _ in range(9000):
        found = assessor.poll()
        if found is not None:
            return found
        threading.Event().wait(0.01)
    raise AssertionError("nothing came")


def test_only_the_newest_waits_and_never_more_often_than_allowed(tmp_path):
    work, now = Recorder(), [0.0]
    assessor = Assessor(work, tmp_path, every_seconds=30.0, clock=lambda: now[0], worked=lambda: now[0])
    work.go.clear()
    for name in ("first", "second", "third"):
        assessor.submit(name, Tallies())
    assert work.entered.wait(90)
    now[0] = 4.0  # it took four seconds: the next is due 80 after its beginning
    work.go.set()
    assert wait_for(assessor) == "first"
    now[0] = 79.0
    assert assessor.poll() is None
    assert assessor._running is None
    now[0] = 80.5
    assert wait_for(assessor) == "third"
    now[0] = 81.0
    assessor.submit("fourth", Tallies().told(Orientation()))
    assert assessor.poll() is None
    # the end of the session does not wait for its turn
    assert assessor.finish(90.0) == ["fourth"]
    assessor.close()


def test_the_end_does_not_wait_for_ever(tmp_path):
    work = Recorder()
    work.go.clear()
    assessor = Assessor(work, tmp_path, every_seconds=0.1)
    assessor.submit("slow", Tallies().told(Orientation()))
    assert assessor.finish(0.05) == []
    assessor.close()
    work.go.set()


def test_a_failure_is_counted_and_told_once_and_the_next_is_tried(tmp_path, snapshot):
    registry = CollectorRegistry()
    publisher, told = FakePublisher(), []
    config = Config.model_validate({"assess": {"mask": str(tmp_path / "gone.mrc"), "find_symmetry": False}})
    assessments = Assessments(
        config, tmp_path, publisher, WorkerMetrics(registry), lambda kind, text, **_: told.append((kind, text))
    )
    assessments.submit(snapshot, some_views(10))
    wait_until(lambda: assessments.poll() or told)  # from the loop's turns
    assessments.submit(snapshot, some_views(10))
    assessments.finish()  # and at the end
    assert [kind for kind, _ in told] == ["assessment_failed"]
    assert "gone.mrc" in told[0][1]
    errors = sum(s.value for m in registry.collect() for s in m.samples if s.name == "streamrecon_worker_errors_total")
    assert errors == 2
    z, y, x = np.indices((64, 64, 64)) - 32
    radius = np.sqrt(x**2 + y**2 + z**2)
    write_volume(tmp_path / "gone.mrc", np.clip((28 - radius) / 5, 0, 1), VOXEL)
    assessments.submit(snapshot, some_views(10))
    assessments.finish()
    assessments.close()
    assert len(publisher.assessments) == 1
    assert publisher.assessments[0][0].symmetry is None
    value = registry.get_sample_value("streamrecon_worker_resolution_masked_angstrom")
    assert value == publisher.assessments[0][0].resolution_masked_angstrom
    assert np.isnan(registry.get_sample_value("streamrecon_worker_forecast_particles", {"target": "4"}))


def test_while_nothing_stands_out_the_mask_is_the_sphere(snapshot):
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 64, 64, 64)).astype(np.float32)
    noise = Snapshot(**{**vars(snapshot), "half_a": a, "half_b": b, "status": status(100, "searching")})
    found = SnapshotAssessor(AssessConfig(), 120.0, SessionHistory()).assess(noise, some_views(100))
    z, y, x = np.indices((64, 64, 64)) - 32
    radius = np.sqrt(x**2 + y**2 + z**2)
    assert (found.maps.mask[radius <= 60 / VOXEL] == 1).all()
    assert (found.maps.mask[radius >= 60 / VOXEL + 6] == 0).all()
    # and nobody looks for axes in it
    assert found.assessment.symmetry is None


def test_an_unexpected_symmetry_is_told_once(tmp_path, snapshot):
    told = []
    assessments = Assessments(
        Config(),
        tmp_path,
        FakePublisher(),
        WorkerMetrics(CollectorRegistry()),
        lambda kind, text, **f: told.append((kind, text, f)),
    )
    for _ in range(2):
        assessments.submit(snapshot, some_views(10))
        assessments.finish()
    assert [(kind, fields["group"]) for kind, _, fields in told] == [("symmetry", "D2")]
    assert "C1 was expected" in told[0][1]
    expected = Config.model_validate({"assess": {"symmetry": "D2"}})
    told.clear()
    quiet = Assessments(
        expected,
        tmp_path,
        FakePublisher(),
        WorkerMetrics(CollectorRegistry()),
        lambda kind, *_, **__: told.append(kind),
    )
    quiet.submit(snapshot, some_views(10))
    quiet.finish()
    assert told == []


def test_the_worker_goes_on_whatever_an_assessment_does(tmp_path):
    """Maps of the stand-in engine are no particles: its assessments fail, its session does not."""
    session = Session(tmp_path, Ledger({i: make_batch(i) for i in range(1, 4)}), make_config(tmp_path, assess={}))
    assert session.start() == "drained"
    assert session.ledger.acked == {1, 2, 3}
    kinds = [kind for kind, *_ in session.publisher.events]
    assert kinds[-1] == "drained"
    assert "assessment_failed" in kinds or session.publisher.assessments


def line(n):
    return 1 / np.sqrt(0.004 + 2 / 150 * np.log(n))


def test_the_fit_takes_only_points_that_particles_decided():
    history = SessionHistory()
    length = 300.0
    for i in range(30):
        history.add(status(300 + 30 * i, "searching", 30, "common"), 20.0, length, float(i))
    for i in range(30):
        # better and better, but only as fast as the band was let grow
        at = status(2000 + 90 * i, "settled", 12 + i, "common")
        history.add(at, length / (11.5 + i), length, 30.0 + i)
    assert history.fit() is None
    for i in range(40):
        n = round(5000 * 1.06**i)
        history.add(status(n, "refining", 140), line(n), length, 60.0 + 60 * i)
    fit = history.fit()
    assert fit.b_factor_angstrom2 == pytest.approx(150, rel=1e-6)
    assert len(history.points) == 100
    # particles of the last half hour
    assert history.particles_per_hour == pytest.approx((round(5000 * 1.06**39) - round(5000 * 1.06**9)) * 2, rel=1e-6)


def test_history_goes_on_after_a_restart_and_forgets_what_was_lost(tmp_path):
    history = SessionHistory()
    for i in range(30):
        n = round(2000 * 1.1**i)
        history.add(status(n, k_max=140), line(n), 300.0, float(i))
    path = tmp_path / "assessment.json"
    path.write_text(json.dumps({"history": history.to_json_able()}))
    whole = SessionHistory.read(path, 10**9)
    assert whole.points == history.points
    assert whole.fit() == history.fit()
    half = SessionHistory.read(path, 8000)
    assert half.points == [p for p in history.points if p[0] <= 8000]
    for text in ("", "[]", '{"history": {"fsc_kind": "x", "points": [[1]], "fit_points": []}}', '{"history": 3}'):
        path.write_text(text)
        assert SessionHistory.read(path, 100).points == []
    assert SessionHistory.read(tmp_path / "none.json", 100).points == []


def test_thinning_keeps_the_ends_and_spreads_over_the_logarithm():
    points = [(n, 1.0) for n in range(100, 20_000, 50)]
    kept = thinned(points, 50)
    assert len(kept) == 50
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    steps = np.diff(np.log([n for n, _ in kept]))
    assert steps.max() < 5 * np.median(steps)
