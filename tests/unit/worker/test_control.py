"""What orders do to the worker's loop: with stand-ins for engine and feed, and real checkpoints and files."""

import json
import logging
import threading
import time

import pytest
from fakes import Ledger
from prometheus_client import CollectorRegistry
from sessions import Session, batches, make_config

from streamrecon.errors import StateError
from streamrecon.monitor.control_metrics import ControlMetrics
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.transport.control_schema import PROTOCOL_VERSION, VERBS, Command
from streamrecon.transport.control_server import Order
from streamrecon.worker import durability, loop
from streamrecon.worker.control import Control

TOKEN = "0" * 32
RARELY = {
    "snapshot": {"every_images": 10**6, "every_seconds": 1e6},
    "checkpoint": {"every_seconds": 1e6},
}


@pytest.fixture(autouse=True)
def only_when_asked(monkeypatch):
    """No checkpoint comes by itself, but at the end."""
    monkeypatch.setattr(durability, "PAUSED_CHECKPOINT_SECONDS", 1e6)
    monkeypatch.setattr(loop, "POLL_SECONDS", 0.005)


class Bench:
    """A worker whose feed never ends: orders are given at chosen moments, and it is stopped by one of them."""

    def __init__(self, folder, n=4, **tables):
        self.registry = CollectorRegistry()
        config = make_config(folder, **RARELY | tables)
        self.control = Control(config, ControlMetrics(self.registry))
        self.session = Session(folder, Ledger(batches(n)), config, control=self.control)
        self.answers = {}
        self.polls = 0

    def give(self, verb, key="", value=None, by="ann"):
        """Submit an order; its answer comes to `answers`, under the order's number."""
        number = len(self.answers)
        self.answers[number] = None

        def reply(outcome, text, fields):
            assert self.answers[number] is None, "answered twice"
            self.answers[number] = (outcome, text, dict(fields))

        command = Command(version=PROTOCOL_VERSION, ticket=TOKEN, request=TOKEN, verb=verb, key=key, value=value)
        self.control.submit(Order(command, by, reply))
        return number

    def run(self, script):
        """Run the worker; ``script`` is a generator that is advanced at each poll of the feed and at each pause.

        It is stopped when the script ends.
        """
        stop = threading.Event()
        steps = script(self)
        deadline = time.monotonic() + 150

        def step():
            assert time.monotonic() < deadline
            if next(steps, "over") == "over":
                stop.set()

        def sabotage(worker, session):
            self.worker = worker
            poll, turn = session.feed.poll, self.control.turn
            type(session.feed).drained = property(lambda feed: False)

            def polled(seconds):
                self.polls += 1
                return poll(seconds)

            def turned(*arguments):
                turn(*arguments)
                step()

            session.feed.poll, self.control.turn = polled, turned

        drained = type(self.session.ledger.connect(set(), "", "")).drained
        try:
            return self.session.start(stop, sabotage)
        finally:
            type(self.session.feed).drained = drained
            self.control.close()

    def answered(self, number):
        """Wait in a script for an answer."""
        while self.answers[number] is None:
            yield
        return self.answers[number]

    def folded(self, n):
        """Wait in a script until so many batches are folded."""
        while len(self.session.reconstruction.folded) < n:
            yield


def test_a_pause_takes_nothing_from_the_feed_until_resume(tmp_path):
    def script(bench):
        outcome, text, _ = yield from bench.answered(bench.give("pause"))
        assert outcome == "done"
        assert "ledger" in text
        polls, folded = bench.polls, len(bench.session.reconstruction.folded)
        assert folded < 4
        for _ in range(5):
            yield
        assert bench.polls == polls
        assert len(bench.session.reconstruction.folded) == folded
        assert bench.control.look()[1]["state"] == "paused"
        bench.control.finishing = "the last sweeps"  # a pause holds these up, too
        assert bench.control.look()[0].startswith("paused")
        bench.control.finishing = ""
        assert bench.registry.get_sample_value("streamrecon_control_paused") == 1
        assert "already" in (yield from bench.answered(bench.give("pause")))[1]
        assert (yield from bench.answered(bench.give("resume")))[0] == "done"
        yield from bench.folded(4)
        assert bench.registry.get_sample_value("streamrecon_control_paused") == 0
        assert bench.control.look()[1]["particles_seen"] == 80

    bench = Bench(tmp_path)
    bench.run(script)
    assert bench.session.ledger.acked == {1, 2, 3, 4}


def test_a_pause_holds_what_waits_for_its_contrast_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CONTRAST_IMAGES", 10**6)
    monkeypatch.setattr(loop, "decide_contrast", lambda config, batches, must: "protein_white" if must else None)

    def script(bench):
        while not bench.worker._undecided:
            yield
        yield from bench.answered(bench.give("pause"))
        monkeypatch.setattr(loop, "CONTRAST_WAIT_SECONDS", 0.0)
        for _ in range(5):
            yield
        assert len(bench.session.reconstruction.folded) == 0
        bench.give("resume")
        yield from bench.folded(4)

    Bench(tmp_path, input={"contrast": "auto"}).run(script)


def test_a_checkpoint_is_answered_when_it_holds_what_was_folded(tmp_path):
    def script(bench):
        yield from bench.folded(2)
        held = set(bench.session.reconstruction.folded)
        assert bench.session.ledger.acked == set()
        outcome, text, fields = yield from bench.answered(bench.give("checkpoint"))
        assert outcome == "done"
        assert f"checkpoint {fields['number']}" in text
        loaded = CheckpointStore(tmp_path / "checkpoints").load_latest()
        assert loaded.number == fields["number"]
        durable = {i for first, last in loaded.extra["folded"] for i in range(first, last + 1)}
        assert held <= durable
        assert held <= bench.session.ledger.acked
        yield from bench.folded(4)
        yield from bench.answered(bench.give("checkpoint"))
        outcome, text, fields = yield from bench.answered(bench.give("checkpoint"))
        assert outcome == "done"
        assert "already" in text
        assert fields["number"] == CheckpointStore(tmp_path / "checkpoints").load_latest().number

    Bench(tmp_path).run(script)


def test_a_checkpoint_asked_for_while_one_is_written_is_the_next_one(tmp_path, monkeypatch):
    """The one under way may lack what was folded since it was begun."""
    begun, go_on = threading.Event(), threading.Event()
    save = CheckpointStore.save

    def slow(store, state, extra):
        begun.set()
        assert go_on.wait(120)
        return save(store, state, extra)

    monkeypatch.setattr(CheckpointStore, "save", slow)

    def script(bench):
        yield from bench.folded(1)
        first = bench.give("checkpoint")
        while not begun.is_set():
            yield
        yield from bench.folded(4)
        second = bench.give("checkpoint")
        for _ in range(3):
            yield
        assert bench.answers[first] is None
        assert bench.answers[second] is None
        go_on.set()
        one, two = (yield from bench.answered(first)), (yield from bench.answered(second))
        assert two[2]["number"] == one[2]["number"] + 1
        assert bench.session.ledger.acked == {1, 2, 3, 4}

    Bench(tmp_path).run(script)


def test_the_loop_folds_on_while_a_checkpoint_is_written_and_its_size_and_time_are_told(tmp_path, monkeypatch):
    folded_all = threading.Event()
    save = CheckpointStore.save

    def slow(store, state, extra):
        assert folded_all.wait(120), "the loop stood still"
        return save(store, state, extra)

    monkeypatch.setattr(CheckpointStore, "save", slow)

    def script(bench):
        yield from bench.folded(1)
        number = bench.give("checkpoint")
        yield from bench.folded(4)
        folded_all.set()
        _, _, fields = yield from bench.answered(number)
        files = (tmp_path / "checkpoints" / f"checkpoint-{fields['number']:06d}").iterdir()
        size = sum(path.stat().st_size for path in files)
        assert fields["bytes"] == bench.session.metric("checkpoint_bytes") == size
        assert 0 < bench.session.metric("checkpoint_write_seconds") < 300
        assert bench.session.metric("checkpoints_total") == 1

    Bench(tmp_path).run(script)


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_session_goes_on(tmp_path, monkeypatch):
    full = [True]
    save = CheckpointStore.save

    def fails(store, state, extra):
        if full[0]:
            raise StateError("disk full; free space")
        return save(store, state, extra)

    monkeypatch.setattr(CheckpointStore, "save", fails)

    def script(bench):
        yield from bench.folded(1)
        outcome, text, _ = yield from bench.answered(bench.give("checkpoint"))
        assert (outcome, text) == ("failed", "disk full; free space")
        full[0] = False
        yield from bench.folded(4)
        assert (yield from bench.answered(bench.give("checkpoint")))[0] == "done"

    Bench(tmp_path).run(script)


def test_a_snapshot_now(tmp_path, monkeypatch):
    def script(bench):
        bench.control.paused = True
        assert (yield from bench.answered(bench.give("checkpoint")))[0] == "refused"
        outcome, text, _ = yield from bench.answered(bench.give("snapshot"))
        assert outcome == "refused"
        assert "first particles" in text
        bench.control.paused = False
        yield from bench.folded(4)
        before = len(bench.session.publisher.snapshots)
        outcome, _, fields = yield from bench.answered(bench.give("snapshot"))
        assert (outcome, fields) == ("done", {"particles": 80})
        assert len(bench.session.publisher.snapshots) == before + 1
        assert json.loads((tmp_path / "snapshots" / "status.json").read_text())["particles_seen"] == 80

        def refuse(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(loop, "write_snapshot", refuse)
            outcome, text, _ = yield from bench.answered(bench.give("snapshot"))
        assert outcome == "failed"
        assert "No space left" in text

    Bench(tmp_path).run(script)


def test_a_live_parameter_works_at_once(tmp_path):
    def script(bench):
        yield from bench.folded(1)
        snapshots = len(bench.session.publisher.snapshots)
        answer = yield from bench.answered(bench.give("set", "snapshot.every_images", 20))
        assert answer[0] == "done"
        assert answer[2] == {"key": "snapshot.every_images", "value": 20, "before": 10**6}
        assert "config.toml" in answer[1]
        yield from bench.folded(4)
        yield
        # one batch may have come before the order
        assert len(bench.session.publisher.snapshots) >= snapshots + 2
        assert (yield from bench.answered(bench.give("get", "snapshot.every_images")))[2] == {
            "snapshot.every_images": 20
        }

    Bench(tmp_path).run(script)


def test_a_shorter_checkpoint_interval_works_at_once(tmp_path):
    def script(bench):
        yield from bench.folded(4)
        assert bench.session.ledger.acked == set()
        yield from bench.answered(bench.give("set", "checkpoint.every_seconds", 0.001))
        while bench.session.ledger.acked != {1, 2, 3, 4}:
            yield

    Bench(tmp_path).run(script)


def test_the_log_level_works_at_once(tmp_path):
    def script(bench):
        assert (yield from bench.answered(bench.give("set", "log.level", "debug")))[0] == "done"
        assert logging.getLogger().level == logging.DEBUG

    Bench(tmp_path).run(script)


@pytest.mark.parametrize(
    ("verb", "key", "value", "said"),
    [
        ("set", "engine.maximum_resolution_angstrom", 8.0, "checkpoint made under one value does not fit another"),
        ("set", "feed.credits", 8, "start again"),
        ("set", "snapshot.every_images", -1, "it stays 1000000"),
        ("set", "snapshot.evry", 1, "no such key"),
        ("get", "snapshot.evry", None, "no such key"),
    ],
)
def test_what_cannot_be_set_says_why_and_changes_nothing(tmp_path, verb, key, value, said):
    def script(bench):
        before = bench.control.config
        outcome, text, _ = yield from bench.answered(bench.give(verb, key, value))
        assert outcome == "refused"
        assert said in text
        assert bench.control.config is before

    Bench(tmp_path).run(script)


def test_get_shows_every_key(tmp_path):
    def script(bench):
        outcome, text, fields = yield from bench.answered(bench.give("get"))
        assert outcome == "done"
        assert "snapshot.every_images = 1000000" in text
        assert "log.level = 'info'" in text
        assert fields["engine.samples"] == bench.control.config.engine.samples
        assert fields["session.output_dir"] == str(tmp_path)

    Bench(tmp_path).run(script)


def test_drain_asks_the_ingester_and_ends_a_pause(tmp_path):
    def script(bench):
        yield from bench.answered(bench.give("pause"))
        outcome, _, _ = yield from bench.answered(bench.give("drain"))
        assert outcome == "accepted"
        assert bench.session.feed.draining
        assert not bench.control.paused
        assert (yield from bench.answered(bench.give("pause")))[0] == "refused"
        yield from bench.folded(4)
        assert bench.control.look()[1]["state"] == "draining"

    Bench(tmp_path).run(script)


def test_stop_ends_in_order_and_what_comes_later_is_turned_away(tmp_path):
    def script(bench):
        yield from bench.folded(2)
        number = bench.give("stop")
        while True:
            yield
            if bench.answers[number]:
                bench.late = bench.give("snapshot")

    bench = Bench(tmp_path)
    assert bench.run(script) == "stopped"
    assert bench.answers[0][0] == "accepted"
    assert bench.answers[bench.late][0] == "failed"
    folded = set(bench.session.reconstruction.folded)
    assert bench.session.ledger.acked == folded
    assert (tmp_path / "particles.star").exists()


def test_an_order_that_nobody_came_to_is_answered_at_the_end(tmp_path):
    bench = Bench(tmp_path)
    number = bench.give("snapshot")
    bench.control.close()
    assert bench.answers[number] == ("failed", "the worker ended before it came to this", {})
    assert bench.answers[bench.give("pause")][0] == "failed"


def test_each_command_is_counted_and_published_with_its_name(tmp_path):
    def script(bench):
        yield from bench.folded(1)
        for order in (("pause",), ("resume",), ("set", "log.format", "json"), ("get",), ("checkpoint",)):
            yield from bench.answered(bench.give(*order))

    bench = Bench(tmp_path)
    bench.run(script)
    events = [(text, fields) for kind, text, fields in bench.session.publisher.events if kind == "control"]
    assert [fields for _, fields in events] == [
        {"verb": "pause", "by": "ann", "outcome": "done"},
        {"verb": "resume", "by": "ann", "outcome": "done"},
        {"verb": "set", "by": "ann", "outcome": "refused"},
        {"verb": "checkpoint", "by": "ann", "outcome": "done"},
    ]
    assert all(text.startswith(f"{fields['verb']} by ann: ") for text, fields in events)
    counted = {
        verb: bench.registry.get_sample_value("streamrecon_control_commands_total", {"verb": verb}) for verb in VERBS
    }
    assert {verb: n for verb, n in counted.items() if n} == {
        "pause": 1, "resume": 1, "set": 1, "get": 1, "checkpoint": 1,
    }  # fmt: skip


def test_status_is_answered_while_the_loop_hangs(tmp_path):
    control = Control(make_config(tmp_path))
    control._now = (time.monotonic() - 100.0, None, 7)
    text, fields = control.look()
    assert 100 <= fields["seconds_since_turn"] < 190
    assert "came round 1" in text
    assert fields["unacknowledged_batches"] == 7
    assert json.dumps(fields, allow_nan=False)
