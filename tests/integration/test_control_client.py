"""The client of the control socket: what it waits for, and what it says where nothing comes."""

import json
import queue
import threading
from types import SimpleNamespace

import psutil
import pytest
import zmq

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.transport import control_client
from streamrecon.transport.control_client import ControlClient
from streamrecon.transport.control_schema import PROTOCOL_VERSION, Answer, Ticket, encode
from tests.integration.control_desk import wait_for


class Late:
    """A socket whose owner stands still before it reads what follows its second message, the command, until told to."""

    def __init__(self, sock):
        self._socket, self._sent = sock, 0
        self.go = threading.Event()

    def send_multipart(self, *arguments):
        self._socket.send_multipart(*arguments)
        self._sent += 1

    def poll(self, milliseconds):
        if self._sent > 1:
            assert self.go.wait(90)
        return self._socket.poll(milliseconds)

    def __getattr__(self, name):
        return getattr(self._socket, name)


def is_connected(endpoint):
    port = int(endpoint.rsplit(":", 1)[1])
    return any(c.raddr and c.raddr.port == port for c in psutil.Process().net_connections("tcp"))


class TestClient:
    def test_an_answer_is_read_late_from_a_daemon_that_has_ended(self, open_desk, monkeypatch):
        monkeypatch.setattr(control_client, "_KNOCK_SECONDS", 90.0)  # one knock
        answers = queue.Queue()
        with ControlClient(open_desk.endpoint) as control:
            late = control._socket = Late(control._socket)
            asking = threading.Thread(target=lambda: answers.put(control.ask("stop", timeout_seconds=90)))
            asking.start()
            try:
                wait_for(lambda: open_desk.obeyed)
                open_desk.server.close()
                wait_for(lambda: not is_connected(open_desk.endpoint))
            finally:
                late.go.set()
                asking.join()
        assert answers.get_nowait().text == "stop it is"

    def test_no_answer_in_time(self, open_desk, monkeypatch):
        """The time runs out once the command has come: a ticket has to come and go before, however busy the machine."""
        open_desk.hold = True
        clock = SimpleNamespace(monotonic=lambda: 0.0 if open_desk.orders.empty() else 100.0)
        monkeypatch.setattr(control_client, "time", clock)
        with (
            ControlClient(open_desk.endpoint) as control,
            pytest.raises(TransportError, match="was sent, but no answer came"),
        ):
            control.ask("snapshot", timeout_seconds=3.0)

    def test_nobody_there(self, open_desk):
        open_desk.server.close()
        with ControlClient(open_desk.endpoint) as control, pytest.raises(TransportError, match="nobody answers"):
            control.ask("snapshot", timeout_seconds=0.5)

    def test_an_answer_to_something_else_is_passed_over(self):
        """A server played by the test: an old answer, then ours."""
        with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
            sock.linger = 0
            port = sock.bind_to_random_port("tcp://127.0.0.1")
            found = []

            def ask():
                with ControlClient(f"tcp://127.0.0.1:{port}") as control:
                    found.append(control.ask("pause", timeout_seconds=90).text)

            thread = threading.Thread(target=ask)
            thread.start()

            def hear(kind):
                """Return the next message of a kind: whoever waits for a ticket knocks again and again."""
                while True:
                    assert sock.poll(60_000)
                    route, frame = sock.recv_multipart()
                    if (message := json.loads(frame))["type"] == kind:
                        return route, message

            route, _ = hear("knock")
            sock.send_multipart([route, *encode(Ticket(PROTOCOL_VERSION, "a" * 32, 30.0))])
            route, asked = hear("command")
            request = asked["request"]
            for number, text in (("b" * 32, "another's"), (request, "ours")):
                answer = Answer(version=PROTOCOL_VERSION, request=number, outcome="done", text=text)
                sock.send_multipart([route, *encode(answer)])
            thread.join(60)
        assert found == ["ours"]

    def test_a_daemon_of_another_version(self):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
            sock.linger = 0
            port = sock.bind_to_random_port("tcp://127.0.0.1")

            def answer():
                route, _ = sock.recv_multipart()
                sock.send_multipart([route, b'{"type": "refusal", "version": 2, "kind": "x", "text": "y"}'])

            thread = threading.Thread(target=answer)
            thread.start()
            with ControlClient(f"tcp://127.0.0.1:{port}") as control, pytest.raises(ProtocolVersionError):
                control.ask("pause", timeout_seconds=90)
            thread.join()
