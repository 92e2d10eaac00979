"""A socket in the file system belongs to who listens on it; what a killed one has left is taken over."""

import socket

import pytest
import zmq

from streamrecon.errors import TransportError
from streamrecon.ingest.feed import FeedServer
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.transport.binding import bind
from streamrecon.transport.control_client import ControlClient
from streamrecon.transport.control_server import ControlServer
from tests.integration.control_desk import Desk
from tests.integration.feed_helpers import Server, fill


def test_a_second_daemon_does_not_take_the_first_one_s_control_socket(tmp_path):
    endpoint = f"ipc://{tmp_path}/control"
    first = Desk(endpoint=endpoint)
    try:
        with pytest.raises(TransportError, match=r"cannot be bound.*Address already in use"):
            ControlServer(endpoint, lambda order: None, lambda: ("another", {}))
        with ControlClient(endpoint) as control:
            assert control.ask("pause", timeout_seconds=60).text == "pause it is"
        assert first.obeyed == [("pause", "")]
    finally:
        first.server.close()


def test_what_a_killed_daemon_has_left_is_in_nobody_s_way(tmp_path):
    path = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
        bind(sock, f"ipc://{path}")
        with (
            context.socket(zmq.ROUTER) as other,
            pytest.raises(zmq.ZMQError, match="Address already in use"),
        ):
            bind(other, f"ipc://{path}")


def test_an_ingester_whose_port_is_taken_says_it_in_the_words_of_the_runbook(tmp_path):
    """Which sends whoever reads "cannot be bound" to the ports of the other sessions."""
    (tmp_path / "one").mkdir()
    fill(tmp_path / "one")
    first = Server(tmp_path / "one")
    try:
        with (
            Ledger(tmp_path / "two" / LEDGER_NAME) as ledger,
            pytest.raises(TransportError, match=r"cannot be bound \(Address already in use.*feed\.endpoint"),
        ):
            FeedServer(ledger, tmp_path, first.endpoint, 60.0)
    finally:
        first.stop()
