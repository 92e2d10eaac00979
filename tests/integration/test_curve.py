"""CURVE over real sockets: who holds an authorized key is served, everybody else gets nothing and is counted."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from streamrecon.client import VolumeSubscriber
from streamrecon.compare.session import free_ports, write_session_config
from streamrecon.errors import AuthenticationError, ConfigError, TransportError
from streamrecon.transport import schema
from streamrecon.transport.feed_client import FeedClient
from streamrecon.transport.keys import ClientKeys, ServerKeys, client_folder, make_client, make_server
from streamrecon.transport.publisher import Publisher
from tests.integration.feed_helpers import Server, fill

FREE_PORT = "tcp://127.0.0.1:0"


@pytest.fixture
def keys(tmp_path):
    make_server(tmp_path / "keys")
    return tmp_path / "keys"


def local(keys):
    return ClientKeys.load(client_folder(keys, "local"))


def stranger(keys):
    """Whoever knows the daemon's public key and has a pair of their own."""
    public, secret = zmq.curve_keypair()
    return ClientKeys(public, secret, local(keys).server)


@pytest.fixture
def refused():
    return []


@pytest.fixture
def publisher(keys, refused):
    with Publisher(
        FREE_PORT, FREE_PORT, FREE_PORT, heartbeat_seconds=0.1, curve=ServerKeys.load(keys), refused=refused.append
    ) as made:
        made.publish_event("note", "hello")
        yield made


def subscriber_of(publisher, **options):
    return VolumeSubscriber(
        publisher.events, publisher.volumes, publisher.snapshots, **{"timeout_seconds": 60, **options}
    )


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


class TestPublisher:
    def test_an_authorized_subscriber_gets_state_and_stream(self, publisher, keys, refused):
        with subscriber_of(publisher, curve=local(keys)) as messages:
            topics = {next(messages).topic, next(messages).topic}
            assert topics == {schema.SESSION, schema.EVENT}
            publisher.publish_event("note", "later")
            assert next(messages).header.text == "later"
        assert refused == []

    def test_an_unknown_key_gets_nothing_and_is_told(self, publisher, keys, refused):
        with (
            subscriber_of(publisher, curve=stranger(keys)) as messages,
            pytest.raises(AuthenticationError, match="not authorized"),
        ):
            next(messages)
        wait_for(lambda: "unknown_key" in refused)

    def test_the_workers_key_does_not_subscribe(self, publisher, keys):
        worker = ClientKeys.load(client_folder(keys, "worker"))
        with subscriber_of(publisher, curve=worker) as messages, pytest.raises(AuthenticationError):
            next(messages)

    def test_plaintext_gets_nothing_and_is_told(self, publisher, refused):
        with (
            subscriber_of(publisher) as messages,
            pytest.raises(AuthenticationError, match="only one of the two ends uses CURVE"),
        ):
            next(messages)
        # which end sees it first, and hangs up on the other, is chance
        wait_for(lambda: {"plaintext", "disconnected"} & set(refused))

    def test_a_wrong_server_key_is_a_failed_handshake(self, publisher, keys, refused):
        mine = local(keys)
        wrong = ClientKeys(mine.public, mine.secret, zmq.curve_keypair()[0])
        with subscriber_of(publisher, curve=wrong) as messages, pytest.raises(AuthenticationError):
            next(messages)
        wait_for(lambda: "handshake" in refused)

    @pytest.mark.parametrize("kind", ["plain", "unknown"])
    @pytest.mark.parametrize("door", ["events", "volumes", "snapshots"])
    def test_no_byte_leaves_any_socket_for_a_raw_client(self, publisher, keys, refused, kind, door):
        with zmq.Context() as context, context.socket(zmq.DEALER if door == "snapshots" else zmq.SUB) as sock:
            sock.linger = 0
            if kind == "unknown":
                stranger(keys).use(sock)
            if door != "snapshots":
                sock.subscribe("")
            sock.connect(getattr(publisher, door))
            if door == "snapshots":
                with contextlib.suppress(zmq.Again):
                    sock.send_multipart(schema.encode_snapshot_request(schema.TOPICS), zmq.NOBLOCK)
            wait_for(lambda: refused)
            assert not sock.poll(700), "a message reached somebody without a key"

    def test_a_key_added_while_it_runs_is_let_in_and_a_removed_one_is_not(self, publisher, keys):
        *_, file = make_client(keys, "late", "subscriber")
        late = ClientKeys.load(client_folder(keys, "late"))
        with subscriber_of(publisher, curve=late) as messages:
            next(messages)
        file.unlink()
        with subscriber_of(publisher, curve=late) as messages, pytest.raises(AuthenticationError):
            next(messages)


def test_a_client_with_keys_is_told_of_a_daemon_without(keys):
    with (
        Publisher(FREE_PORT, FREE_PORT, FREE_PORT, heartbeat_seconds=0.1) as publisher,
        subscriber_of(publisher, curve=local(keys)) as messages,
        pytest.raises(AuthenticationError, match="only one of the two"),
    ):
        next(messages)


def test_a_publisher_that_cannot_bind_leaves_nothing_behind(publisher, keys):
    with pytest.raises(TransportError, match="cannot be bound"):
        Publisher(publisher.events, FREE_PORT, FREE_PORT, curve=ServerKeys.load(keys))


class TestFeed:
    @pytest.fixture
    def server(self, tmp_path, keys):
        fill(tmp_path, stacks=1)
        made = Server(tmp_path, curve=ServerKeys.load(keys))
        yield made
        made.stop()

    def test_the_worker_gets_batches(self, server, keys):
        curve = ClientKeys.load(client_folder(keys, "worker"))
        with FeedClient(server.endpoint, "w", curve=curve) as feed:
            batch_id, batch = feed.poll(60)
            assert (batch_id, len(batch.table)) == (1, 5)
        assert server.metrics.refused == []

    @pytest.mark.parametrize(
        ("who", "reason"), [("stranger", "unknown_key"), ("local", "unknown_key"), (None, "plaintext")]
    )
    def test_others_get_none(self, server, keys, who, reason):
        curve = {"stranger": stranger, "local": local, None: lambda _: None}[who](keys)
        with FeedClient(server.endpoint, "w", curve=curve) as feed, pytest.raises(AuthenticationError):
            feed.poll(60)
        # a client in plaintext may see it first, and hang up
        wait_for(lambda: {reason, "disconnected"} & set(server.metrics.refused))


@pytest.mark.slow
def test_the_daemon_end_to_end(tmp_path):
    """Simulated particles through ``run`` with CURVE: a subscriber with the key sees the map, others are counted."""
    make_server(tmp_path / "keys")
    ports = free_ports()
    config = write_session_config(tmp_path, ports, seed=1, settle_seconds=0.2)
    config.write_text(config.read_text() + '\n[security]\ncurve_dir = "keys"\n')
    command = [sys.executable, "-m", "streamrecon"]
    simulate = ["--particles", "300", "--rate", "0", "--box", "32", "--pixel-size", "6", "--seed", "1"]
    subprocess.run(
        [*command, "simulate", str(tmp_path / "incoming"), "--truth", str(tmp_path / "truth"), *simulate],
        check=True,
        capture_output=True,
        timeout=240,
    )
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen([*command, "run", "-c", str(config)], stdout=log, stderr=log)
    try:
        seen = 0
        with VolumeSubscriber(
            ports.events, ports.volumes, ports.snapshots, timeout_seconds=90, curve=local(tmp_path / "keys")
        ) as messages:
            for message in messages:
                seen = getattr(message.header, "particles_seen", 0) or seen
                if seen == 300:
                    break
        with VolumeSubscriber(ports.events, timeout_seconds=90) as messages, pytest.raises(AuthenticationError):
            next(messages)
        ended = subprocess.run(
            [*command, "subscribe", "-c", str(config), "--count", "1"], capture_output=True, text=True, timeout=240
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr

        def refused():
            """Return how often each process refused whom; nothing of one that has no time to say so just now."""
            try:
                with urllib.request.urlopen(f"http://{ports.monitor}/metrics", timeout=5) as response:
                    families = list(text_string_to_metric_families(response.read().decode()))
            except (OSError, http.client.HTTPException):
                return {}
            return {
                (s.name.split("_")[1], s.labels["reason"]): s.value
                for f in families
                for s in f.samples
                if s.name.endswith("peers_refused_total")
            }

        in_plaintext = [("worker", "plaintext"), ("worker", "disconnected")]
        wait_for(lambda: (found := refused()) and sum(found.get(key, 0) for key in in_plaintext) >= 1)
        others = {("ingest", "plaintext"), ("worker", "unknown_key")}
        wait_for(lambda: others <= refused().keys())
        assert all(refused().get(key, 0) == 0 for key in others)
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(120)
    assert code == 0, (tmp_path / "log").read_text()


def test_the_daemon_refuses_keys_that_others_can_read(tmp_path):
    make_server(tmp_path / "keys")
    (tmp_path / "keys" / "server.key_secret").chmod(0o644)
    config = write_session_config(tmp_path, free_ports(), seed=1)
    config.write_text(config.read_text() + '\n[security]\ncurve_dir = "keys"\n')
    with pytest.raises(ConfigError, match="mode 0644"):
        ServerKeys.load(tmp_path / "keys")
    for verb in ("ingest", "worker"):
        ended = subprocess.run(
            [sys.executable, "-m", "streamrecon", verb, "-c", str(config)],
            capture_output=True,
            text=True,
            timeout=240,
            env=os.environ | {"COLUMNS": "300"},
        )
        assert ended.returncode == 2, ended.stdout + ended.stderr
        assert "chmod 600" in ended.stdout + ended.stderr
