"""Follow a running reconstruction: `VolumeSubscriber`, an iterator of typed messages with numpy arrays.

>>> with VolumeSubscriber(
...     events="tcp://127.0.0.1:8761",
...     volumes="tcp://127.0.0.1:8762",
...     snapshots="tcp://127.0.0.1:8763",
... ) as messages:
...     for message in messages:
...         if isinstance(message, VolumeMessage):
...             print(message.header.resolution_angstrom, message.volume.shape)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Literal

import zmq

from streamrecon.errors import AuthenticationError, SequenceGap, TransportError
from streamrecon.transport import schema
from streamrecon.transport.handshake import ClientWatch
from streamrecon.transport.keys import ClientKeys
from streamrecon.transport.schema import (
    EventMessage,
    FscMessage,
    HeartbeatMessage,
    Message,
    SessionMessage,
    StatusMessage,
    VolumeMessage,
)

__all__ = [
    "ClientKeys",
    "EventMessage",
    "FscMessage",
    "HeartbeatMessage",
    "Message",
    "SessionMessage",
    "StatusMessage",
    "VolumeMessage",
    "VolumeSubscriber",
]

# two snapshots of three maps: who reads more slowly than they come loses some, and memory stays bounded
_VOLUME_HIGH_WATER_MARK = 6
_ASK_AGAIN_SECONDS = 2.0
_REFUSAL_SECONDS = 0.2


class VolumeSubscriber:
    """Messages of a session, from the state it is in now and on, until it ends.

    Parameters
    ----------
    events, volumes : str or None
        Endpoints of the publisher's two PUB sockets; give the ones you want.
    snapshots : str or None
        Endpoint of its snapshot socket. Without it a late joiner waits for the next message of each topic.
    topics : sequence of str
        Only topics that begin with one of these, such as ``"volume/full/"``; none means all.
    timeout_seconds : float
        After that long without even a heartbeat the publisher counts as lost.
    on_gap : {"count", "raise"}
        What to do about lost messages: add them to `gaps`, or raise `SequenceGap` (iterate on to go on).
    curve : ClientKeys or None
        ``ClientKeys.load(folder)`` of the folder that ``streamrecon keygen`` made for this client, if the
        daemon wants CURVE.

    Attributes
    ----------
    gaps : dict of str to int
        Messages lost, by topic.

    Raises
    ------
    TransportError
        Nothing is heard for ``timeout_seconds``, or what is heard cannot be understood.
    AuthenticationError
        The daemon does not know our key, we do not know its, or only one of us wants CURVE.
    SequenceGap
        Messages were lost and ``on_gap`` is "raise".

    Notes
    -----
    Subscribe first, ask for the state second, drop what the state already holds: nothing falls in between.
    Iteration ends after the session's end message.
    """

    def __init__(
        self,
        events: str | None = None,
        volumes: str | None = None,
        snapshots: str | None = None,
        *,
        topics: Sequence[str] = (),
        timeout_seconds: float = 10.0,
        on_gap: Literal["count", "raise"] = "count",
        curve: ClientKeys | None = None,
    ) -> None:
        if events is None and volumes is None:
            raise TransportError("give the endpoint of the events socket, of the volumes socket, or of both")
        unknown = [t for t in topics if not any(known.startswith(t) for known in schema.TOPICS)]
        if unknown:
            raise TransportError(f"unknown topics {unknown}; known are {list(schema.TOPICS)}")
        self.gaps: dict[str, int] = {}
        self._endpoints = {"events": events, "volumes": volumes}
        self._snapshots = snapshots
        self._topics = tuple(topics) or schema.TOPICS
        self._timeout_seconds = timeout_seconds
        self._on_gap = on_gap
        self._curve = curve
        self._handshakes: dict[zmq.Socket[bytes], ClientWatch] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: dict[zmq.Socket[bytes], str] = {}
        self._heard: dict[zmq.Socket[bytes], float] = {}
        self._ready: deque[Message | TransportError] = deque()
        self._latest: dict[str, Message] = {}
        self._session_id = ""
        self._earlier_sessions: deque[str] = deque(maxlen=8)
        self._sequence: dict[str, int] = {}
        self._ended: set[zmq.Socket[bytes]] = set()
        self._joined = False

    def __enter__(self) -> VolumeSubscriber:
        for name, endpoint in self._endpoints.items():
            if endpoint is not None:
                self._connect(name, endpoint)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        for watch in self._handshakes.values():
            watch.close()
        self._handshakes.clear()
        self._context.destroy(linger=0)

    def __iter__(self) -> VolumeSubscriber:
        return self

    def __next__(self) -> Message:
        """Return the next message; heartbeats are kept to ourselves.

        Raises
        ------
        StopIteration
            The session has ended.
        TransportError, SequenceGap
            See the class.
        """
        if not self._sockets:
            raise TransportError("the subscriber is not open; use it in a with statement")
        if not self._joined:
            self._join()
        while not self._ready:
            if len(self._ended) == len(self._sockets):
                raise StopIteration
            for sock, received in self._poll():
                self._accept(sock, received)
        message = self._ready.popleft()
        if isinstance(message, TransportError):
            raise message
        self._latest[message.topic] = message
        return message

    def latest(self, topic: str = schema.VOLUME_FULL) -> Message | None:
        """Return the last message of a topic that the iterator gave out, or None."""
        return self._latest.get(topic)

    def _connect(self, name: str, endpoint: str) -> None:
        sock = self._context.socket(zmq.SUB)
        if name == "volumes":
            sock.setsockopt(zmq.RCVHWM, _VOLUME_HIGH_WATER_MARK)
        for topic in {*self._topics, schema.HEARTBEAT, schema.SESSION}:
            sock.subscribe(topic)
        self._sockets[sock] = f"{name} {endpoint}"
        self._handshakes[sock] = ClientWatch(sock, self._sockets[sock], curve=self._curve is not None)
        self._dial(sock, endpoint)
        self._heard[sock] = time.monotonic()

    def _dial(self, sock: zmq.Socket[bytes], endpoint: str) -> None:
        sock.setsockopt(zmq.MAXMSGSIZE, schema.MAX_ARRAY_BYTES)
        if self._curve is not None:
            self._curve.use(sock)
        try:
            sock.connect(endpoint)
        except zmq.ZMQError as error:
            raise TransportError(
                f"{endpoint}: is not an endpoint ({error.strerror}); expected tcp://address:port or ipc://path"
            ) from error

    def _join(self) -> None:
        """Wait until each subscription holds, then take the state; later messages follow it."""
        waiting = set(self._sockets)
        early: list[tuple[zmq.Socket[bytes], Message]] = []
        while waiting:
            for sock, received in self._poll():
                if isinstance(received, TransportError):
                    raise received
                waiting.discard(sock)
                early.append((sock, received))
        self._take_state()
        self._joined = True
        for sock, message in early:
            self._accept(sock, message)

    def _poll(self) -> list[tuple[zmq.Socket[bytes], Message | TransportError]]:
        """Return one message of each socket that has one; raise if one has been silent for too long.

        One that cannot be read stands in the list as its error, so that the others are not lost with it.
        """
        open_sockets = [s for s in self._sockets if s not in self._ended]
        poller = zmq.Poller()
        for sock in open_sockets:
            poller.register(sock, zmq.POLLIN)
        for sock in open_sockets:
            if text := self._handshakes[sock].refusal():
                raise AuthenticationError(text)
        first_deadline = min(self._heard[s] for s in open_sockets) + self._timeout_seconds
        wait = max(0.0, first_deadline - time.monotonic())
        ready = dict(poller.poll(int(1000 * min(wait, _REFUSAL_SECONDS))))
        now = time.monotonic()
        for sock in open_sockets:
            if sock in ready:
                self._heard[sock] = now
            elif now - self._heard[sock] >= self._timeout_seconds:
                raise TransportError(
                    f"{self._sockets[sock]}: nothing heard for {self._timeout_seconds:g} s, not even a "
                    "heartbeat; the worker has stopped or cannot be reached: check `streamrecon run` and the "
                    "endpoint"
                )
        received: list[tuple[zmq.Socket[bytes], Message | TransportError]] = []
        for sock in open_sockets:
            if sock in ready:
                try:
                    received.append((sock, schema.deserialize(sock.recv_multipart())))
                except TransportError as error:
                    received.append((sock, error))
        return received

    def _accept(self, sock: zmq.Socket[bytes], message: Message | TransportError) -> None:
        """Take what came from a PUB socket: detect gaps, queue what is new."""
        if isinstance(message, TransportError):
            self._ready.append(message)
            return
        session_id = message.header.session_id
        if session_id in self._earlier_sessions:
            return  # the two sockets do not change over at the same moment
        if session_id != self._session_id:
            self._start_over(session_id)
        if isinstance(message, HeartbeatMessage):
            self._compare_with_heartbeat(sock, message)
            return
        if isinstance(message, SessionMessage) and message.header.state == "end":
            self._ended.add(sock)
        self._queue(message)

    def _queue(self, message: Message) -> None:
        last = self._sequence.get(message.topic)
        if last is not None and message.header.sequence <= last:
            return
        self._sequence[message.topic] = message.header.sequence
        if last is not None and message.header.sequence > last + 1:
            self._lost(message.topic, last + 1, message.header.sequence)
        # session messages are subscribed to in any case, to see the end
        if message.topic.startswith(self._topics):
            self._ready.append(message)

    def _compare_with_heartbeat(self, sock: zmq.Socket[bytes], message: HeartbeatMessage) -> None:
        """Find losses that no later message has shown: what this socket sent before the heartbeat is here."""
        on_volumes = self._sockets[sock].startswith("volumes ")
        for topic, sequence in message.header.last_sequence.items():
            if topic in (schema.HEARTBEAT, schema.SESSION) or (topic in schema.VOLUME_TOPICS) != on_volumes:
                continue
            if not topic.startswith(self._topics):
                continue
            last = self._sequence.setdefault(topic, sequence)
            if sequence > last:
                self._sequence[topic] = sequence
                self._lost(topic, last + 1, sequence + 1)

    def _lost(self, topic: str, expected: int, found: int) -> None:
        self.gaps[topic] = self.gaps.get(topic, 0) + found - expected
        if self._on_gap == "raise":
            self._ready.append(
                SequenceGap(
                    f"topic {topic}: expected message {expected}, the next one is {found}: "
                    f"{found - expected} lost; this subscriber reads more slowly than they come: "
                    "subscribe to fewer topics, or iterate on"
                )
            )

    def _start_over(self, session_id: str) -> None:
        """Follow another run of the publisher: numbering is its own."""
        restarted = bool(self._session_id)
        if restarted:
            self._earlier_sessions.append(self._session_id)
        self._session_id = session_id
        self._sequence.clear()
        self._ended.clear()
        if restarted:
            self._take_state()

    def _take_state(self) -> None:
        """Ask for the last message of each topic, if there is somebody to ask, and queue them."""
        if self._snapshots is None:
            return
        deadline = time.monotonic() + self._timeout_seconds
        while time.monotonic() < deadline:
            state, heartbeat = self._ask(self._snapshots, min(_ASK_AGAIN_SECONDS, self._timeout_seconds))
            if heartbeat is None:
                continue
            self._session_id = heartbeat.header.session_id
            for message in state:
                self._queue(message)
            for topic, sequence in heartbeat.header.last_sequence.items():
                self._sequence.setdefault(topic, sequence)
            return
        raise TransportError(
            f"{self._snapshots}: no answer to a snapshot request within {self._timeout_seconds:g} s; "
            "check publish.snapshots, or leave the snapshots endpoint out"
        )

    def _ask(self, endpoint: str, seconds: float) -> tuple[list[Message], HeartbeatMessage | None]:
        """Return one answer and the heartbeat that closes it; None if it did not come in full."""
        dealer = self._context.socket(zmq.DEALER)
        try:
            self._dial(dealer, endpoint)
            dealer.send_multipart(schema.encode_snapshot_request(self._topics))
            state: list[Message] = []
            while dealer.poll(int(seconds * 1000)):
                message = schema.deserialize(dealer.recv_multipart())
                if isinstance(message, HeartbeatMessage):
                    return state, message
                state.append(message)
            return state, None
        finally:
            dealer.close(linger=0)
