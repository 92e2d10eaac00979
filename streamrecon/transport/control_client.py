"""The control socket's client: one command, one answer."""

from __future__ import annotations

import secrets
import time
from types import TracebackType
from typing import TypeVar

import zmq

from streamrecon.errors import AuthenticationError, TransportError
from streamrecon.transport.control_schema import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Answer,
    Command,
    Knock,
    Refusal,
    Reply,
    Request,
    Scalar,
    Ticket,
    Verb,
    decode_reply,
    encode,
)
from streamrecon.transport.handshake import ClientWatch
from streamrecon.transport.keys import ClientKeys

_KNOCK_SECONDS = 1.0
_TICK_SECONDS = 0.1
_R = TypeVar("_R", Ticket, Answer)


class ControlClient:
    """Speaks to a running worker; used from one thread.

    Parameters
    ----------
    endpoint : str
        control.endpoint of the daemon.
    curve : ClientKeys or None
        Of a client that is authorized for control, if the daemon wants CURVE.

    Raises
    ------
    TransportError
        That is not an endpoint.

    Examples
    --------
    >>> with ControlClient("tcp://127.0.0.1:8764") as control:  # doctest: +SKIP
    ...     print(control.ask("pause").text)
    """

    def __init__(self, endpoint: str, *, curve: ClientKeys | None = None) -> None:
        self._endpoint = endpoint
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        # not IMMEDIATE: when a connection ends, ZeroMQ would then drop what has come and was not read yet, and the
        # answer to "stop" comes from a daemon that ends. A command that waits for one that is away is of no use to the
        # next: its ticket is not that one's
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        if curve is not None:
            curve.use(self._socket)
        self._watch = ClientWatch(self._socket, endpoint, curve=curve is not None, role="control")
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(
                f"{endpoint}: is not an endpoint ({error.strerror}); expected tcp://address:port or ipc://path"
            ) from error

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._watch.close()
        self._context.destroy(linger=0)

    def ask(self, verb: Verb, key: str = "", value: Scalar = None, *, timeout_seconds: float = 30.0) -> Answer:
        """Give one command and return what came of it.

        Raises
        ------
        ProtocolVersionError
            The daemon speaks another version.
        AuthenticationError
            Our key is not authorized for control, or only one of us wants CURVE.
        TransportError
            No answer in time, or the command was refused unread. It may have been obeyed all the same where the
            answer did not come.
        """
        deadline = time.monotonic() + timeout_seconds
        ticket = self._exchange(Knock(PROTOCOL_VERSION), Ticket, deadline, again_seconds=_KNOCK_SECONDS)
        request = secrets.token_hex(16)
        command = Command(
            version=PROTOCOL_VERSION, ticket=ticket.ticket, request=request, verb=verb, key=key, value=value
        )
        # sent once: where its answer is lost, nobody knows whether it was obeyed
        return self._exchange(command, Answer, deadline, request=request)

    def _exchange(
        self,
        message: Request,
        wanted: type[_R],
        deadline: float,
        *,
        again_seconds: float = float("inf"),
        request: str = "",
    ) -> _R:
        sent_at = float("-inf")
        sent = False
        while time.monotonic() < deadline:
            if text := self._watch.refusal():
                raise AuthenticationError(text)
            if time.monotonic() - sent_at >= again_seconds or not sent:
                sent = self._send(message) or sent
                sent_at = time.monotonic()
            if not self._socket.poll(int(1000 * min(_TICK_SECONDS, max(0.0, deadline - time.monotonic())))):
                continue
            reply: Reply = decode_reply(self._socket.recv_multipart())
            if isinstance(reply, Refusal):
                raise TransportError(f"{self._endpoint}: the daemon refused the message ({reply.kind}): {reply.text}")
            # a second ticket, of a knock that was repeated, is left over
            if isinstance(reply, wanted) and (not isinstance(reply, Answer) or reply.request == request):
                return reply
        what = "the command was sent, but no answer came" if sent and request else "nobody answers"
        raise TransportError(
            f"{self._endpoint}: {what} within the time given; check that the worker runs (`streamrecon status`), that "
            "control.endpoint is the same here and there, or allow more --timeout: a fold may take seconds"
        )

    def _send(self, message: Request) -> bool:
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
