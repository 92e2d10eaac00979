"""The thread that owns the worker's socket: Hello and heartbeats go on while the engine folds."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable

import numpy as np
import structlog
import zmq
from numpy.typing import NDArray

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.transport.batch_ids import BatchIds
from streamrecon.transport.feed_schema import (
    MAX_PIXEL_BYTES,
    PROTOCOL_VERSION,
    Ack,
    Batch,
    Bye,
    Credit,
    Drain,
    ErrorReply,
    Heartbeat,
    Hello,
    IngestMessage,
    Nack,
    Welcome,
    WorkerMessage,
    compress_ids,
    decode_ingest_message,
    encode,
)
from streamrecon.transport.handshake import ClientWatch
from streamrecon.transport.keys import ClientKeys

_log = structlog.get_logger(__name__)
_HELLO_SECONDS = 1.0
# each Hello without an answer on the same connection doubles the time to the next: some time the answer is quicker
_MOST_HELLO_SECONDS = 30.0
_KNOCK_SECONDS = 0.1
_TICK_MILLISECONDS = 20
_HEARTBEAT_SECONDS = 1.0
_HEARTBEATS_A_LEASE = 4


class FeedLink:
    """Speaks the protocol in a thread of its own; decides nothing but what is a duplicate.

    Attributes
    ----------
    inbox : queue of (message, pixels or None)
        Never holds the same batch twice, nor one that is folded already.
    """

    def __init__(
        self,
        endpoint: str,
        worker_id: str,
        hostname: str,
        credits: int,
        session: str,
        folded: Iterable[int],
        folded_link: str = "",
        curve: ClientKeys | None = None,
    ) -> None:
        self.inbox: queue.Queue[tuple[IngestMessage, NDArray[np.float32] | None]] = queue.Queue()
        self._outbox: queue.Queue[WorkerMessage] = queue.Queue()
        self._worker_id = worker_id
        self._hostname = hostname
        self._credits = credits
        self._lock = threading.Lock()
        self._session = session
        self._folded = BatchIds(folded.ranges if isinstance(folded, BatchIds) else compress_ids(folded))
        # the highest folded batch whose link is known
        self._folded_tip: tuple[int, str] = (self._folded.last, folded_link)
        self._held: dict[int, str] = {}  # with the link of each
        self._waiting = 0
        self._drain = False
        self._stop = threading.Event()
        self._welcome: Welcome | None = None
        self._refused = False
        self._hellos = 0
        self._hello_at = -_HELLO_SECONDS
        self._hello_seconds = _HELLO_SECONDS
        self._connections = 0
        self._sent_at = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.MAXMSGSIZE, MAX_PIXEL_BYTES)
        self._socket.set(zmq.LINGER, 500)
        # Nothing is kept for a server that is away: a new Hello says it all once it is back.
        self._socket.set(zmq.IMMEDIATE, 1)
        self._socket.set(zmq.RECONNECT_IVL, 100)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 2000)
        if curve is not None:
            curve.use(self._socket)
        self._handshakes = ClientWatch(self._socket, endpoint, curve=curve is not None, role="worker")
        self._socket.connect(endpoint)
        self._thread = threading.Thread(target=self._run, name="feed-link", daemon=True)
        self._thread.start()

    def taken(self) -> None:
        """Note that a batch was taken from the inbox, so that another may be sent."""
        with self._lock:
            self._waiting -= 1
            self._outbox.put(Credit(1))

    def link(self, batch_id: int) -> str:
        """Return the link of a batch that is held or the highest folded one, "" if it is not known."""
        with self._lock:
            return self._held.get(batch_id) or (self._folded_tip[1] if batch_id == self._folded_tip[0] else "")

    def acknowledge(self, batch_ids: list[int]) -> None:
        """Say that the worker holds these batches in a durable checkpoint."""
        with self._lock:
            for batch_id in batch_ids:
                self._folded.add(batch_id)
            links = [(i, self._held.pop(i, "")) for i in batch_ids]
            self._folded_tip = max([self._folded_tip, *((i, link) for i, link in links if link)])
            self._outbox.put(Ack(batch_ids))

    def give_back(self, batch_id: int, kind: str, reason: str) -> None:
        """Say that the worker cannot use a batch; it may come again in another form."""
        with self._lock:
            self._held.pop(batch_id, None)
            self._outbox.put(Nack(batch_id, kind, reason))

    def drain(self) -> None:
        """Ask the ingester to take nothing new and to end once everything is folded."""
        with self._lock:
            self._drain = True
            self._outbox.put(Drain())

    def close(self) -> None:
        """Say Bye and end the thread."""
        self._stop.set()
        self._thread.join()
        self._context.term()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._welcome is not None:
                    self._send_outbox()
                now = time.monotonic()
                if self._welcome is None and not self._refused and now - self._hello_at >= self._hello_seconds:
                    self._hello(now)
                elif self._welcome is not None:
                    every = min(_HEARTBEAT_SECONDS, self._welcome.lease_seconds / _HEARTBEATS_A_LEASE)
                    if now - self._sent_at >= every:
                        self._send(Heartbeat())
                self._note_refusal()
                while self._socket.poll(_TICK_MILLISECONDS):
                    self._receive(self._socket.recv_multipart())
                    if self._stop.is_set() or not self._outbox.empty():
                        break
            if self._welcome is not None:
                self._send_outbox()
                self._send(Bye())
        finally:
            self._handshakes.close()
            self._socket.close()

    def _note_refusal(self) -> None:
        """Tell the client of a handshake that failed: it would fail again."""
        text = self._handshakes.refusal()
        if self._handshakes.successes != self._connections:
            self._connections = self._handshakes.successes
            self._hello_seconds = _HELLO_SECONDS  # what was said on the connection before nobody answers
        if text is not None and not self._refused:
            self._refused = True
            self.inbox.put((ErrorReply("authentication", text), None))

    def _send_outbox(self) -> None:
        while self._welcome is not None:
            try:
                message = self._outbox.get_nowait()
            except queue.Empty:
                return
            self._send(message)

    def _send(self, message: WorkerMessage) -> bool:
        try:
            self._socket.send_multipart(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # No server. Whatever this message said, the next Hello says it too.
            self._welcome = None
            return False
        self._sent_at = time.monotonic()
        return True

    def _hello(self, now: float) -> None:
        if self._socket.poll(0):
            return  # the answer to the one before may be there
        self._hello_at = now
        self._hellos += 1
        with self._lock:
            # This Hello says what waits: credits in its credits, Acks in its folded, Nacks as not held, Drain as such.
            while not self._outbox.empty():
                self._outbox.get_nowait()
            hello = Hello(
                version=PROTOCOL_VERSION,
                worker_id=self._worker_id,
                hostname=self._hostname,
                credits=max(0, self._credits - self._waiting),
                session=self._session,
                folded=self._folded.ranges,
                held=sorted(self._held),
                tip=self._tip(),
                drain=self._drain,
                number=self._hellos,
            )
        if self._send(hello):
            self._hello_seconds = min(2 * self._hello_seconds, _MOST_HELLO_SECONDS)
        else:
            self._hello_seconds = _HELLO_SECONDS
            self._hello_at = now - _HELLO_SECONDS + _KNOCK_SECONDS

    def _tip(self) -> tuple[int, str] | None:
        """Return the highest batch, folded or held, of which the link is known, with its link."""
        return max((tip for tip in (self._folded_tip, *self._held.items()) if tip[1]), default=None)

    def _receive(self, frames: list[bytes]) -> None:
        try:
            message, pixels = decode_ingest_message(frames)
        except ProtocolVersionError as error:
            message, pixels = ErrorReply("protocol_version", str(error)), None
        except TransportError as error:
            _log.warning("feed_message_dropped", reason=str(error)[:500])
            return
        match message:
            case Welcome() if message.hello not in (0, self._hellos):
                return  # to a Hello that we have repeated since
            case Welcome():
                self._welcome = message
                self._session = message.session
                self._hello_seconds = _HELLO_SECONDS
            case ErrorReply(kind="unknown_worker"):
                # The server was restarted, or had given us up.
                self._welcome = None
                return
            case ErrorReply():
                self._welcome = None
                self._refused = True
            case Batch() if self._welcome is None or not self._is_new(message.batch_id, message.link):
                # where our Hello has not been answered yet it does not hold what was sent before: it is lent anew
                return
            case _:
                pass
        self.inbox.put((message, pixels))

    def _is_new(self, batch_id: int, link: str) -> bool:
        with self._lock:
            known = batch_id in self._held or batch_id in self._folded
            if known:
                self._outbox.put(Credit(1))
            if batch_id in self._folded:
                self._outbox.put(Ack([batch_id]))
            if not known:
                self._held[batch_id] = link
                self._waiting += 1
        return not known
