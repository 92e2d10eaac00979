"""The control socket's server: a ROUTER in a thread of its own that hands orders to whoever obeys them.

It decides who is heard (CURVE, tickets, limits), not what is done: that is `streamrecon.worker.control`.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import structlog
import zmq

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.transport import tickets
from streamrecon.transport.binding import bind
from streamrecon.transport.control_schema import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Answer,
    Command,
    Knock,
    Outcome,
    Refusal,
    Reply,
    Scalar,
    Ticket,
    decode_request,
    encode,
)
from streamrecon.transport.gate import Gate
from streamrecon.transport.keys import ServerKeys, authorized_folder
from streamrecon.transport.seldom import Seldom

# of orders not yet answered; whoever sends more at once is told to wait
MOST_ORDERS = 100
_MAX_MESSAGES_A_TURN = 100
_MAX_TEXT = 5000
_TICK_MILLISECONDS = 500
_HIGH_WATER_MARK = 100
_LINGER_MILLISECONDS = 2000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Order:
    """A command that has passed every check, and the way back to who gave it.

    Attributes
    ----------
    command : Command
    by : str
        The name of the key it came with, "" without CURVE.
    reply : callable
        Takes the answer's outcome, text and fields; once, from any thread, returns at once.
    """

    command: Command
    by: str
    reply: Callable[[Outcome, str, Mapping[str, Scalar]], None]


class ControlServer:
    """Serves control clients.

    Parameters
    ----------
    endpoint : str
        Port 0 takes a free one.
    submit : callable
        Takes every order but "status", in our thread; each must be answered.
    look : callable
        Answers "status" in our thread, so that it is answered while the loop is busy or hangs: returns a sentence
        and fields.
    curve : ServerKeys or None
        With them only clients whose key is authorized for control get in, and all is encrypted.
    peer_refused, message_refused : callable
        Told the reason of each refusal: one of `REFUSAL_REASONS`, one of `REFUSAL_KINDS`. In our thread.

    Attributes
    ----------
    endpoint : str
        As bound.

    Raises
    ------
    TransportError
        The endpoint cannot be bound.
    """

    def __init__(
        self,
        endpoint: str,
        submit: Callable[[Order], None],
        look: Callable[[], tuple[str, Mapping[str, Scalar]]],
        *,
        curve: ServerKeys | None = None,
        peer_refused: Callable[[str], None] = lambda _: None,
        message_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._submit = submit
        self._look = look
        self._curve = curve
        self._message_refused = message_refused
        self._seldom = Seldom()
        self._tickets = tickets.Tickets()
        self._answers: queue.Queue[tuple[bytes, Reply]] = queue.Queue()
        self._open = 0
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = Gate(self._context, curve, peer_refused)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.SNDHWM, _HIGH_WATER_MARK)
        self._socket.set(zmq.RCVHWM, _HIGH_WATER_MARK)
        self._socket.set(zmq.LINGER, _LINGER_MILLISECONDS)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self._gate.guard(self._socket, "control")
        try:
            bind(self._socket, endpoint)
        except zmq.ZMQError as error:
            self._close_sockets()
            raise TransportError(
                f"{endpoint}: cannot be bound ({error.strerror}); choose a free port for control.endpoint, or end "
                "the program that holds it"
            ) from error
        self.endpoint: str = self._socket.get_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Send what has been answered, and close."""
        self._stopping.set()
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        # a full pipe means that the thread is due to wake; a closed one, that it is gone
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_write.send(b"\0")

    def _close_sockets(self) -> None:
        self._gate.close()
        self._context.destroy(linger=_LINGER_MILLISECONDS)
        self._wake_read.close()
        self._wake_write.close()

    # everything below runs in our thread, but for `reply`

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:
            # the session is worth more than its control socket: it goes on without
            _log.exception("control socket failed")
        finally:
            self._close_sockets()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_read, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        while True:
            stopping = self._stopping.is_set()  # read before the answers, so that the last ones are among them
            self._send_answers()
            self._gate.poll()
            if stopping:
                return
            poller.poll(_TICK_MILLISECONDS)
            with contextlib.suppress(BlockingIOError):
                while self._wake_read.recv(4096):
                    pass
            for _ in range(_MAX_MESSAGES_A_TURN):
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                self._receive(frames[0].bytes, frames[1:])

    def _send_answers(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                route, answer = self._answers.get_nowait()
                self._open -= 1
                self._send(route, answer)

    def _send(self, route: bytes, message: Reply) -> None:
        # a ROUTER drops what it cannot route: who asked has gone
        self._socket.send_multipart([route, *encode(message)])

    def _receive(self, route: bytes, frames: Sequence[zmq.Frame]) -> None:
        by = ""
        try:
            request = decode_request([frame.bytes for frame in frames])
        except ProtocolVersionError as error:
            self._refuse(route, "protocol_version", str(error))
            return
        except TransportError as error:
            self._refuse(route, "garbage", str(error)[:1000])
            return
        match request:
            case Knock():
                self._send(route, Ticket(PROTOCOL_VERSION, self._tickets.issue(route), tickets.SECONDS))
            case Command() if not self._tickets.redeem(request.ticket, route):
                self._refuse(
                    route,
                    "replayed",
                    f"{request.verb}: its ticket was used before, has run out, or is another connection's; nothing was "
                    "done; ask for a new one",
                )
            case Command() if self._curve is not None and not (by := self._name_of(frames[0])):
                # who is let in is asked when a connection is made, and this one may be old
                self._refuse(
                    route,
                    "revoked",
                    f"{request.verb}: its key is not, or no longer, in {authorized_folder('control')} of "
                    "security.curve_dir; nothing was done",
                )
            case Command(verb="status"):
                text, fields = self._look()
                self._send(route, _answer(request, "done", text, fields))
            case Command() if self._open >= MOST_ORDERS:
                self._refuse(route, "busy", f"{MOST_ORDERS} orders wait already; wait for their answers")
            case Command():
                self._accept(route, request, by)

    def _accept(self, route: bytes, command: Command, by: str) -> None:
        def reply(outcome: Outcome, text: str, fields: Mapping[str, Scalar]) -> None:
            self._answers.put((route, _answer(command, outcome, text, fields)))
            self._wake()

        self._open += 1
        self._submit(Order(command, by, reply))

    def _name_of(self, frame: zmq.Frame) -> str:
        """Return the name of the key that a message came with, "" if it is not authorized or cannot be looked up."""
        if self._curve is None:
            return ""
        # the authenticator files each connection under its key
        with contextlib.suppress(zmq.ZMQError, KeyError, OSError):
            return self._curve.name_of("control", str(frame.get("User-Id")).encode())
        return ""

    def _refuse(self, route: bytes, kind: str, text: str) -> None:
        self._message_refused(kind)
        if times := self._seldom.due(kind):
            _log.warning("control_refused", reason=kind, times=times, text=text[:500])
        self._send(route, Refusal(PROTOCOL_VERSION, kind, text))


def _answer(command: Command, outcome: Outcome, text: str, fields: Mapping[str, Scalar]) -> Answer:
    short = text[:_MAX_TEXT]
    return Answer(version=PROTOCOL_VERSION, request=command.request, outcome=outcome, text=short, fields=dict(fields))
