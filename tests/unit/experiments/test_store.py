"""Results on disk, plans, and going on after a stop."""

import json

import numpy as np
import pytest

from streamrecon.errors import ConfigError, StateError
from streamrecon.experiments import runner
from streamrecon.experiments.cells import PARTS, cells_of, step_factor
from streamrecon.experiments.measures import score_map, wilson_interval
from streamrecon.experiments.plan import PLANS, Plan, bundled_plan, read_plan
from streamrecon.experiments.store import Cell, Result, Store

PLAN = Plan.model_validate(
    {
        "name": "test",
        "tuning": {"images": 100, "factors": [0.5, 2.0], "methods": ["sgd", "momentum"]},
        "stream": {"images": 100, "methods": ["online_em", "sgd", "momentum"], "peers": ["em"]},
    }
)


def cell(**parameters):
    return Cell("stream", "sgd", {"images": 100, **parameters})


def test_a_result_comes_back(tmp_path):
    store = Store(tmp_path)
    volume = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    store.put(cell(), Result([{"a": 1, "b": None}], {"map": volume}, 1.5))
    found = store.get(cell(), volumes=True)
    assert found.rows == [{"a": 1, "b": None}]
    assert found.cpu_seconds == 1.5
    np.testing.assert_allclose(found.volumes["map"], volume, atol=2e-3)


def test_another_parameter_is_another_cell(tmp_path):
    store = Store(tmp_path)
    store.put(cell(), Result([{}]))
    assert store.has(cell())
    assert not store.has(cell(images=200))


def test_maps_without_their_rows_are_no_result(tmp_path):
    """As after a kill between the two files."""
    store = Store(tmp_path)
    store.put(cell(), Result([{}], {"map": np.zeros((2, 2, 2), np.float32)}))
    (tmp_path / "cells/stream/sgd.json").unlink()
    assert not store.has(cell())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": 1}'])
def test_a_file_that_is_no_result_is_said(tmp_path, text):
    store = Store(tmp_path)
    store.put(cell(), Result([{}]))
    (tmp_path / "cells/stream/sgd.json").write_text(text)
    if text.startswith('{"'):
        assert not store.has(cell())
    else:
        with pytest.raises(StateError, match=r"sgd\.json"):
            store.has(cell())


@pytest.mark.parametrize("name", PLANS)
def test_bundled_plans_can_be_read(name):
    plan = bundled_plan(name)
    assert plan.name == name
    assert any(getattr(plan, part) for part in PARTS)


def test_the_full_plan_is_the_slides(tmp_path):
    plan = bundled_plan("full")
    assert (plan.stream.images, plan.data.box_size) == (50_000, 64)
    assert {5000} <= set(plan.stream.checkpoints)
    assert len(plan.stream.methods) == 9
    assert plan.starts.starts >= 20
    names = [c.name for part in PARTS for c in cells_of(plan, part, Store(tmp_path))]
    assert len(names) == len({(c.part, c.name) for part in PARTS for c in cells_of(plan, part, Store(tmp_path))})


@pytest.mark.parametrize(("text", "word"), [("name = 1", "name"), ("name = 'a'\nspam = 2", "spam"), ("name =", "TOML")])
def test_a_wrong_plan_is_refused_with_what_is_wrong(tmp_path, text, word):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        read_plan(path)
    with pytest.raises(ConfigError, match=r"no\.toml"):
        read_plan(tmp_path / "no.toml")


class Work:
    """Stands in for the cells' own work."""

    def __init__(self, monkeypatch, stop_after=None):
        self.done = []
        self.stop_after = stop_after
        monkeypatch.setattr(runner, "run_cell", self)

    def __call__(self, cell, threads, stop):
        if stop():
            return None
        self.done.append(f"{cell.part}/{cell.name}")
        held_out = {"sgd-0.5": 1.0, "sgd-2": 3.0, "momentum-0.5": 7.0, "momentum-2": 5.0}.get(cell.name)
        return Result([{"method": cell.parameters["method"], "held_out": held_out}])

    def stop(self):
        return self.stop_after is not None and len(self.done) >= self.stop_after


def test_what_is_there_is_not_made_again_and_a_stop_keeps_what_is_done(tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = Work(monkeypatch, stop_after=3)
    assert not runner.run_plan(PLAN, store, stop=first.stop)
    assert len(first.done) == 3
    second = Work(monkeypatch)
    assert runner.run_plan(PLAN, store)
    assert not set(first.done) & set(second.done)
    assert len(first.done) + len(second.done) == 8
    third = Work(monkeypatch)
    assert runner.run_plan(PLAN, store)
    assert third.done == []
    assert runner.pending(PLAN, store) == []


def test_at_most_so_many(tmp_path, monkeypatch):
    work = Work(monkeypatch)
    assert not runner.run_plan(PLAN, Store(tmp_path), most=2)
    assert len(work.done) == 2


def test_later_parts_use_the_step_size_of_the_highest_held_out_likelihood(tmp_path, monkeypatch):
    Work(monkeypatch)
    store = Store(tmp_path)
    runner.run_plan(PLAN, store)
    assert step_factor(PLAN, "sgd", store) == 2.0
    assert step_factor(PLAN, "momentum", store) == 0.5
    assert step_factor(PLAN, "online_em", store) == 1.0
    found = json.loads((tmp_path / "cells/stream/sgd.json").read_text())
    assert found["parameters"]["factor"] == 2.0
    fixed = PLAN.model_copy(update={"step_factors": {"sgd": 7.0}})
    assert step_factor(fixed, "sgd", store) == 7.0


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20), (10, 13)])
def test_wilson_s_interval_is_where_the_rate_is_1_96_deviations_off(k, n):
    low, high = wilson_interval(k, n)
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(k / n - bound) == pytest.approx(1.959964 * np.sqrt(bound * (1 - bound) / n), rel=1e-5)
    assert low <= k / n <= high


def test_a_map_of_nothing_agrees_nowhere():
    """As a prior that is too strong leaves it."""
    truth = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    score = score_map(truth, 1e-20 * truth, 2.0)
    assert score.fsc_05_angstrom == 64.0
    assert not score.fsc.any()
