"""A control server at whose desk orders can be left waiting."""

import queue
import time

from streamrecon.transport.control_server import ControlServer

FREE_PORT = "tcp://127.0.0.1:0"


class Desk:
    """A control server whose orders wait here; "pause" is answered at once, and so is what a test asks for."""

    def __init__(self, curve=None, endpoint=FREE_PORT):
        self.orders = queue.Queue()
        self.obeyed = []
        self.peers, self.messages = [], []
        self.outcome = "done"
        self.hold = False
        self.server = ControlServer(
            endpoint,
            self._submit,
            lambda: ("running, searching", {"state": "running", "particles_seen": 7, "resolution_angstrom": None}),
            curve=curve,
            peer_refused=self.peers.append,
            message_refused=self.messages.append,
        )
        self.endpoint = self.server.endpoint

    def _submit(self, order):
        self.obeyed.append((order.command.verb, order.by))
        if self.hold:
            self.orders.put(order)
        else:
            order.reply(self.outcome, f"{order.command.verb} it is", {"value": order.command.value})


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
