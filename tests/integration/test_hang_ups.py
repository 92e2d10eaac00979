"""A daemon that hangs up during the handshake: at every try it is a refusal, now and then it is not."""

import contextlib
import socket
import threading

import pytest
import zmq

from streamrecon.client import VolumeSubscriber
from streamrecon.errors import AuthenticationError, TransportError
from streamrecon.monitor.ports import unused_ports
from streamrecon.transport import schema
from streamrecon.transport.feed_client import FeedClient
from streamrecon.transport.handshake import HANG_UPS_IN_A_ROW
from streamrecon.transport.keys import ClientKeys
from streamrecon.transport.publisher import Publisher

FREE_PORT = "tcp://127.0.0.1:0"


class Door:
    """A plain TCP server that hangs up on its first visitors, then leads those after them to ``behind``."""

    def __init__(self, hang_ups, behind=None):
        self._left = hang_ups
        self._behind = behind
        self._open = []
        self.turned_away = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = self._listener.accept()
                if self._left is None or self.turned_away < self._left:
                    visitor.recv(1)  # it has begun to speak: this is a handshake
                    visitor.close()
                    self.turned_away += 1
                    continue
                host, port = self._behind.removeprefix("tcp://").split(":")
                inside = socket.create_connection((host, int(port)))
                self._open += [visitor, inside]
                for one, other in ((visitor, inside), (inside, visitor)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()

    def drop_visitors(self, then_hang_up):
        """Break every connection, and hang up on so many that come again."""
        self._left = self.turned_away + then_hang_up
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_visitors(0)
        self._thread.join()


def _pass_on(one, other):
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for sock in (one, other):
        sock.close()


@pytest.fixture
def door():
    doors = []

    def make(*args):
        doors.append(Door(*args))
        return doors[-1]

    yield make
    for one in doors:
        one.close()


def some_keys():
    public, secret = zmq.curve_keypair()
    return ClientKeys(public, secret, zmq.curve_keypair()[0])


@pytest.mark.parametrize("curve", [False, True])
def test_a_subscriber_is_told(door, curve):
    shut = door(None)
    keys = some_keys() if curve else None
    with (
        VolumeSubscriber(shut.endpoint, timeout_seconds=60, curve=keys) as messages,
        pytest.raises(AuthenticationError, match="only one of the two ends uses CURVE"),
    ):
        next(messages)


def test_a_worker_is_told(door):
    with FeedClient(door(None).endpoint, "w") as feed, pytest.raises(AuthenticationError, match="hung up"):
        feed.poll(60)


@pytest.fixture
def publisher():
    """One that says something all the time."""
    stop = threading.Event()
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, heartbeat_seconds=0.1) as made:

        def talk():
            while not stop.wait(0.1):
                made.publish_event("note", "still here")

        thread = threading.Thread(target=talk)
        thread.start()
        yield made
        stop.set()
        thread.join()


def test_a_daemon_that_is_just_restarting_is_waited_for(door, publisher):
    """Twice one hang-up less than a refusal takes, with a success between them."""
    most = HANG_UPS_IN_A_ROW - 1
    entrance = door(most, publisher.events)
    with VolumeSubscriber(entrance.endpoint, timeout_seconds=60) as messages:
        next(messages)
        assert entrance.turned_away == most
        entrance.drop_visitors(most)
        while entrance.turned_away < 2 * most:
            next(messages)  # what it had received already; then it waits, and knocks
        assert next(messages).topic == schema.EVENT


def test_nobody_there_is_not_a_refusal():
    endpoint = f"tcp://127.0.0.1:{unused_ports(1)[0]}"
    with (
        VolumeSubscriber(endpoint, timeout_seconds=1.5) as messages,
        pytest.raises(TransportError, match="nothing heard") as caught,
    ):
        next(messages)
    assert not isinstance(caught.value, AuthenticationError)
