"""The page's thread that follows a worker: with keys, without them, and over what cannot be read."""

import http.client
import threading
import time
from contextlib import contextmanager
from itertools import pairwise

import pytest
import zmq

from streamrecon.compare.session import free_ports
from streamrecon.config.model import Config, MonitorConfig, PublishConfig
from streamrecon.page import follow as follow_module
from streamrecon.page import serve as serve_module
from streamrecon.page.follow import follow, look_at_ledger
from streamrecon.page.hub import Hub
from streamrecon.page.serve import run_page
from streamrecon.page.view import SessionView
from streamrecon.transport.keys import ClientKeys, ServerKeys, client_folder, make_server
from streamrecon.transport.publisher import Publisher
from tests.scripted_session import ledger_at, status_at

PORT = "tcp://127.0.0.1:0"


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


@contextmanager
def following(publisher, curve=None):
    view, stop = SessionView(Hub()), threading.Event()
    config = PublishConfig(events=publisher.events, volumes=publisher.volumes, snapshots=publisher.snapshots)
    thread = threading.Thread(target=follow, args=(view, config, curve, stop), daemon=True)
    thread.start()
    try:
        yield view
    finally:
        stop.set()
        publisher.close("stopped")
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(follow_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(follow_module, "_LEAST_SILENCE_SECONDS", 1.0)


def test_it_gets_in_with_its_key_and_says_so_without(tmp_path):
    make_server(tmp_path)
    known = ClientKeys.load(client_folder(tmp_path, "local"))
    with (
        Publisher(PORT, PORT, PORT, heartbeat_seconds=0.1, curve=ServerKeys.load(tmp_path)) as publisher,
        following(publisher, known) as view,
    ):
        publisher.publish_status(status_at(400))
        wait_for(lambda: view.hub.get("status").get("particles_seen") == 400)
    with (
        Publisher(PORT, PORT, PORT, heartbeat_seconds=0.1, curve=ServerKeys.load(tmp_path)) as publisher,
        following(publisher, None) as view,
    ):
        text = wait_for(lambda: "CURVE" in (said := str(view.hub.get("state")["text"])) and said)
        assert view.hub.get("state")["kind"] == "starting", text


def test_nonsense_on_the_wire_does_not_end_it():
    with zmq.Context() as context, context.socket(zmq.XPUB) as sock:
        sock.linger = 0
        endpoint = f"tcp://127.0.0.1:{sock.bind_to_random_port('tcp://127.0.0.1')}"
        view, stop = SessionView(Hub()), threading.Event()
        config = PublishConfig(events=endpoint, volumes=endpoint, snapshots="tcp://127.0.0.1:1")
        thread = threading.Thread(target=follow, args=(view, config, None, stop), daemon=True)
        thread.start()
        for _ in range(3):
            assert sock.poll(60_000)
            sock.recv()
            sock.send_multipart([b"event/", b"not JSON"])
        assert thread.is_alive()
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def test_a_ledger_that_fails_once_is_looked_at_again(monkeypatch):
    monkeypatch.setattr(follow_module, "_LOOK_SECONDS", 0.01)
    view, stop, looks = SessionView(Hub()), threading.Event(), []

    def look():
        looks.append(time.monotonic())
        if len(looks) == 1:
            raise ValueError("once")
        time.sleep(0.05)
        return ledger_at(len(looks), 0)

    thread = threading.Thread(target=look_at_ledger, args=(view, look, stop), daemon=True)
    thread.start()
    wait_for(lambda: view.hub.get("ledger").get("particles", {}).get("queued", 0) >= 3)
    stop.set()
    thread.join(60)
    # one that takes 50 ms is made at most once a second, however often it was to be
    assert all(later - earlier >= 0.9 for earlier, later in pairwise(looks[1:]))


def test_a_page_told_to_stop_still_hears_how_the_session_ended(monkeypatch):
    """The worker's last word lies behind its last maps, which take the page some time on a busy machine."""
    # as long as it takes: what is held against it is that it does not go before
    monkeypatch.setattr(serve_module, "_END_SECONDS", 90.0)
    monkeypatch.setattr(serve_module, "_LAST_WORDS_SECONDS", 90.0)
    held = threading.Event()
    take = SessionView.take

    def slow(view, message):
        if message.topic.startswith("session") and message.header.state == "end":
            assert held.wait(60)
        take(view, message)

    monkeypatch.setattr(SessionView, "take", slow)
    ports, stop = free_ports(), threading.Event()
    with Publisher(PORT, PORT, PORT, heartbeat_seconds=2.0) as publisher:
        config = Config(
            publish=PublishConfig(events=publisher.events, volumes=publisher.volumes, snapshots=publisher.snapshots),
            monitor=MonitorConfig(bind=ports.monitor),
        )
        page = threading.Thread(target=run_page, args=(config, ports.monitor, dict, stop), daemon=True)
        page.start()

        def stream():
            connection = http.client.HTTPConnection(ports.monitor, timeout=60)
            try:
                connection.request("GET", "/events")
                return connection, connection.getresponse()
            except ConnectionRefusedError:
                return None

        connection, events = wait_for(stream)
        publisher.publish_status(status_at(400))
        while b'"particles_seen":400' not in events.readline():
            pass
        publisher.close("stopped")
        stop.set()
        threading.Timer(0.5, held.set).start()
        told = events.read()
        connection.close()
    page.join(60)
    assert not page.is_alive()
    assert b'"kind":"stopped"' in told
