"""Notices over a real publisher and a real webhook."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from streamrecon.cli.keygen import keygen
from streamrecon.config import Config
from streamrecon.monitor import catalogue
from streamrecon.notices import service
from streamrecon.notices.service import NoticeService
from streamrecon.transport.keys import ServerKeys
from streamrecon.transport.publisher import Publisher
from tests.integration.test_publisher import make_status
from tests.unit.notices.servers import Chat

FREE_PORT = "tcp://127.0.0.1:0"


@contextmanager
def following(chat, publisher, *, page=lambda: None, tell_silence=False, curve_dir="", **notify):
    config = Config.model_validate(
        {
            "session": {"name": "grid7"},
            "publish": {"events": publisher.events, "snapshots": publisher.snapshots, "heartbeat_seconds": 0.1},
            "security": {"curve_dir": curve_dir},
            "notify": {"webhook": "slack", **notify},
        }
    )
    environment = {"STREAMRECON_WEBHOOK_URL": chat.url}
    with NoticeService(config, environment, page, tell_silence=tell_silence) as notices:
        deadline = time.monotonic() + 60
        while publisher.subscribers == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield notices
    for courier in notices._couriers:  # one attempt may be under way: nothing of it outlives the test
        courier._thread.join(60)


@pytest.fixture
def chat():
    with Chat() as chat:
        yield chat


def publishing(**options):
    return Publisher(FREE_PORT, FREE_PORT, FREE_PORT, **{"heartbeat_seconds": 0.1, **options})


def about(part):
    return lambda texts: any(part in text for text in texts)


def status(stage, seen):
    made = make_status(seen)
    return type(made)(**{**vars(made), "stage": stage})


def test_a_session_from_its_first_batch_to_its_end(chat):
    with publishing() as publisher, following(chat, publisher) as notices:
        publisher.publish_status(status("searching", 100))
        publisher.publish_event("batch_refused", "batch 7 cannot be used")
        # once this is here the status before it is on its way, and no later one takes its place
        chat.wait_for(about("batch 7"))
        publisher.publish_status(status("settled", 200))
        chat.wait_for(about("the reconstruction is settled"))
        notices.failure("worker ended unexpectedly with exit code -9")
        publisher.close("drained")
        chat.wait_for(about("ended (drained) with 200 particles"))
    assert len(chat.texts()) == 4


def test_what_is_set_aside_is_read_from_the_metrics(chat):
    name = b'streamrecon_ingest_quarantine_open{kind="stack_corrupt"}'
    page = catalogue.example_page()
    assert page.count(name + b" 0.0") == 1
    page = page.replace(name + b" 0.0", name + b" 12.0")
    with publishing() as publisher, following(chat, publisher, page=lambda: page):
        assert chat.wait_for(about("set aside")) == [
            "grid7: 12 files and particles are set aside and wait for a person; see streamrecon quarantine"
        ]


@pytest.mark.parametrize("tell", [True, False])
def test_a_stream_that_falls_silent_is_told_if_nobody_else_would(chat, monkeypatch, tell):
    monkeypatch.setattr(service, "_SILENCE_SECONDS", 0.5)
    gone = threading.Event()
    monkeypatch.setattr(service._log, "debug", lambda event, **_: gone.set() if event == "stream not heard" else None)
    with (
        publishing(heartbeat_seconds=1000) as publisher,
        following(chat, publisher, tell_silence=tell, quiet_seconds=0) as notices,
    ):
        assert gone.wait(60)
        if tell:
            chat.wait_for(about("not heard any more"))
        notices.failure("something else")
        chat.wait_for(about("something else"))
    assert any("not heard" in text for text in chat.texts()) == tell


def test_what_was_kept_back_is_told_at_the_end(chat, monkeypatch):
    monkeypatch.setattr(service, "_FAREWELL_SECONDS", 60.0)
    with publishing() as publisher, following(chat, publisher, quiet_seconds=3600) as notices:
        for number in range(3):
            notices.failure(f"failure {number}")
    assert chat.texts() == ["grid7: failure 0", "grid7: failure 2 (2 such notices since the last one)"]


def test_what_happened_before_we_came_is_no_news(chat):
    with publishing() as publisher:
        publisher.publish_status(status("settled", 200))
        publisher.publish_event("batch_refused", "long ago")
        began = time.time()
        while time.time() == began:  # a clock may be coarse
            pass
        with following(chat, publisher):
            publisher.publish_event("batch_refused", "just now")
            chat.wait_for(about("just now"))
            publisher.publish_status(status("refining", 300))
            chat.wait_for(about("refining (was settled)"))
    assert len(chat.texts()) == 2


def test_with_keys(chat, tmp_path):
    keygen(tmp_path / "keys")
    keys = ServerKeys.load(tmp_path / "keys")
    with publishing(curve=keys) as publisher, following(chat, publisher, curve_dir=str(tmp_path / "keys")):
        publisher.publish_event("batch_refused", "batch 7 cannot be used")
        chat.wait_for(about("batch 7"))


def test_a_chat_that_is_down_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(service, "_FAREWELL_SECONDS", 0.5)
    with Chat([503] * 100) as chat:
        began = time.monotonic()
        with publishing() as publisher, following(chat, publisher, quiet_seconds=0) as notices:
            for number in range(500):
                notices.failure(f"failure {number}")
            told = time.monotonic() - began
        # far less than the attempts of a single notice take
        assert told < 60
        assert chat.posts == []


@contextmanager
def notify_verb(folder, publisher, chat, *options):
    """Run `streamrecon notify` beside the test; yields the process."""
    config = folder / "config.toml"
    config.write_text(
        f'[session]\nname = "grid7"\n[publish]\nevents = "{publisher.events}"\nsnapshots = "{publisher.snapshots}"\n'
        '[notify]\nwebhook = "slack"\n'
    )
    with subprocess.Popen(
        [sys.executable, "-m", "streamrecon", "notify", "-c", config, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"STREAMRECON_WEBHOOK_URL": chat.url},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("statuses", "code", "says"), [([], 0, "webhook: sent"), ([404], 4, "answered 404")])
def test_the_settings_can_be_tried(tmp_path, statuses, code, says):
    with Chat(statuses) as chat, publishing() as publisher, notify_verb(tmp_path, publisher, chat, "--test") as verb:
        said, _ = verb.communicate(timeout=60)
    assert verb.returncode == code
    assert says in said
    assert "SECRET" not in said
    assert len(chat.posts) == (code == 0)


def test_beside_a_daemon_in_two_halves(tmp_path, chat):
    with publishing() as publisher, notify_verb(tmp_path, publisher, chat) as verb:
        deadline = time.monotonic() + 60
        while publisher.subscribers == 0:
            assert verb.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        publisher.publish_event("batch_refused", "batch 7 cannot be used")
        chat.wait_for(about("batch 7"))
        verb.send_signal(signal.SIGINT)
        said, _ = verb.communicate(timeout=60)
    assert verb.returncode == 0, said
