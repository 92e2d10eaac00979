"""Publishing: the sockets of `schema` in a thread of their own, so that no subscriber can slow the worker.

Events, status, FSC, poses on one PUB socket; volumes on a second one with a small high-water mark; a ROUTER that
answers a late joiner with the last message of each topic. Session and heartbeat go out on both PUB sockets:
on each a subscriber can tell silence from nothing new, and a loss from a message still under way.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

import numpy as np
import structlog
import zmq
from numpy.typing import NDArray

from streamrecon import __version__
from streamrecon.assess.report import Assessment
from streamrecon.errors import TransportError
from streamrecon.reconstruct.results import BatchResult, EngineStatus, Snapshot
from streamrecon.transport import drafts, schema
from streamrecon.transport.binding import bind
from streamrecon.transport.drafts import Draft
from streamrecon.transport.gate import Gate
from streamrecon.transport.keys import ServerKeys
from streamrecon.transport.seldom import Seldom

EVENT_QUEUE_LENGTH = 1000
EVENT_HIGH_WATER_MARK = 1000
# a stalled subscriber holds at most two snapshots in memory, and the small messages between them, then misses some
VOLUME_HIGH_WATER_MARK = 2 * len(schema.ON_VOLUMES_SOCKET) + 4
# the reply to one snapshot request is at most one message a topic
SNAPSHOT_HIGH_WATER_MARK = 2 * len(schema.TOPICS)
LINGER_MILLISECONDS = 2000

_log = structlog.get_logger(__name__)


class _Outbox:
    """What the worker's thread hands over; no method waits for a socket.

    Events and session messages queue (numbered here, so that one dropped by a full queue shows as a gap). Of
    status and snapshots only the newest matters; they are numbered when sent, so a superseded one is no gap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, Draft]] = deque(maxlen=EVENT_QUEUE_LENGTH)
        self._latest: dict[str, list[Draft]] = {}
        self._final: Draft | None = None
        self._last_sequence: dict[str, int] = dict.fromkeys(schema.TOPICS, 0)
        self.wake_read, self._wake_write = socket.socketpair()
        self.wake_read.setblocking(False)
        self._wake_write.setblocking(False)

    def put(self, draft: Draft) -> None:
        with self._lock:
            self._queue.append((self._next(draft.topic), draft))
        self.wake()

    def put_latest(self, slot: str, items: list[Draft]) -> None:
        with self._lock:
            self._latest[slot] = items
        self.wake()

    def put_final(self, draft: Draft) -> None:
        """Send this when all else has been sent, the newest status and snapshot among it."""
        with self._lock:
            self._final = draft
        self.wake()

    def wake(self) -> None:
        # a full pipe means that the thread is already due to wake; a closed one, that it is gone
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_write.send(b"\0")

    def take(self) -> list[tuple[int, Draft]]:
        """Return what is to be sent now, numbered, and forget it."""
        with contextlib.suppress(BlockingIOError):
            while self.wake_read.recv(4096):
                pass
        with self._lock:
            out = list(self._queue)
            self._queue.clear()
            for items in self._latest.values():
                out.extend((self._next(draft.topic), draft) for draft in items)
            self._latest.clear()
            if self._final is not None:
                out.append((self._next(self._final.topic), self._final))
                self._final = None
        return out

    def number(self, topic: str) -> int:
        with self._lock:
            return self._next(topic)

    def close(self) -> None:
        self.wake_read.close()
        self._wake_write.close()

    def _next(self, topic: str) -> int:
        self._last_sequence[topic] += 1
        return self._last_sequence[topic]


class Publisher:
    """Publish a session; every method returns at once, whoever listens or does not.

    Parameters
    ----------
    events, volumes, snapshots : str
        Endpoints to bind, ``tcp://127.0.0.1:port`` (IPv4; port 0 picks a free one) or ``ipc://path``.
    session_name : str
    heartbeat_seconds : float
    curve : ServerKeys or None
        With them only subscribers whose key is authorized get in, and all is encrypted.
    refused : callable
        Told the reason of each refusal, in the publisher's thread.

    Attributes
    ----------
    session_id : str
    events, volumes, snapshots : str
        The endpoints as bound.

    Raises
    ------
    TransportError
        An endpoint cannot be bound; from the publishing methods: the publisher's thread has failed.
    """

    def __init__(
        self,
        events: str,
        volumes: str,
        snapshots: str,
        *,
        session_name: str = "session",
        heartbeat_seconds: float = 1.0,
        curve: ServerKeys | None = None,
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.session_id = secrets.token_hex(8)
        self._session_name = session_name
        self._heartbeat_seconds = heartbeat_seconds
        self._outbox = _Outbox()
        self._last: dict[str, list[zmq.Frame]] = {}
        self._sent = dict.fromkeys(schema.TOPICS, 0)
        self._subscribers = 0
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._seldom = Seldom()
        self._gate = Gate(self._context, curve, refused)
        try:
            self._events, self.events = self._bind(zmq.XPUB, events, EVENT_HIGH_WATER_MARK)
            self._volumes, self.volumes = self._bind(zmq.XPUB, volumes, VOLUME_HIGH_WATER_MARK)
            self._router, self.snapshots = self._bind(zmq.ROUTER, snapshots, SNAPSHOT_HIGH_WATER_MARK)
        except TransportError:
            self._gate.close()
            self._context.destroy(linger=0)
            self._outbox.close()
            raise
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()
        self._put(drafts.session_draft("start", session_name, __version__, "", time.time()))

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close("finished" if error is None else "failed")

    @property
    def subscribers(self) -> int:
        """Return how many subscribers the events socket has."""
        return self._subscribers

    def publish_status(self, status: EngineStatus) -> None:
        """Publish the engine's status; one not yet sent is superseded."""
        self._check()
        self._outbox.put_latest("status", [drafts.status_draft(status, time.time())])

    def publish_snapshot(self, snapshot: Snapshot) -> None:
        """Publish maps and FSC; a snapshot not yet sent is superseded as a whole.

        The arrays are read later, in the publisher's thread: leave them as they are.
        """
        self._check()
        self._outbox.put_latest("snapshot", drafts.snapshot_drafts(snapshot, time.time()))

    def publish_poses(
        self, batch_id: int, result: BatchResult, half: NDArray[np.integer], status: EngineStatus
    ) -> None:
        """Publish the poses of a folded batch; every batch's are sent."""
        self._put(drafts.poses_draft(batch_id, result, half, status, time.time()))

    def publish_recorded(self, message: schema.Message) -> None:
        """Publish a message of an earlier session again, numbered as one of this."""
        self._put(drafts.recorded_draft(message))

    def publish_assessment(self, assessment: Assessment, status: EngineStatus) -> None:
        """Publish an assessment of the snapshot that ``status`` belongs to; one not yet sent is superseded."""
        self._check()
        self._outbox.put_latest("assessment", [drafts.assessment_draft(assessment, status, time.time())])

    def publish_event(self, kind: str, text: str, **fields: schema.Scalar) -> None:
        """Publish something worth telling a person."""
        self._put(drafts.event_draft(kind, text, fields, time.time()))

    def close(self, reason: str) -> None:
        """Publish the session's end with a reason, send what is left and close the sockets."""
        if not self._stopping.is_set():
            end = drafts.session_draft("end", self._session_name, __version__, reason, time.time())
            self._outbox.put_final(end)
            self._stopping.set()
            self._outbox.wake()
        self._thread.join()

    def _put(self, draft: Draft) -> None:
        self._check()
        self._outbox.put(draft)

    def _check(self) -> None:
        if self._failure is not None:
            raise TransportError(f"the publisher has failed: {self._failure}") from self._failure

    def _bind(self, kind: int, endpoint: str, high_water_mark: int) -> tuple[zmq.Socket[bytes], str]:
        sock = self._context.socket(kind)
        sock.setsockopt(zmq.SNDHWM, high_water_mark)
        sock.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        if kind == zmq.XPUB:
            # every subscription is shown to the thread: it counts them and greets each with a heartbeat
            sock.setsockopt(zmq.XPUB_VERBOSER, 1)
        # what comes in are subscriptions and requests, which are short
        sock.setsockopt(zmq.MAXMSGSIZE, schema.MAX_HEADER_BYTES)
        self._gate.guard(sock, "subscriber")
        try:
            bind(sock, endpoint)
        except zmq.ZMQError as error:
            raise TransportError(
                f"{endpoint}: cannot be bound ({error.strerror}); choose a free port under [publish], or end "
                "the program that holds it"
            ) from error
        return sock, sock.getsockopt_string(zmq.LAST_ENDPOINT)

    # everything below runs in the publisher's thread

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            _log.exception("publisher failed")
            self._failure = error
        finally:
            self._gate.close()
            self._context.destroy(linger=LINGER_MILLISECONDS)
            self._outbox.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        for watched in (self._outbox.wake_read, self._router, self._events, self._volumes):
            poller.register(watched, zmq.POLLIN)
        due = 0.0
        while True:
            stopping = self._stopping.is_set()  # read before the outbox, so that the end is in it
            for sequence, draft in self._outbox.take():
                self._send(draft, sequence)
            self._gate.poll()
            if stopping:
                return
            now = time.monotonic()
            if now >= due:
                self._send_heartbeat()
                due = now + self._heartbeat_seconds
            ready = dict(poller.poll(int(max(0.0, due - now) * 1000)))
            newcomers = [self._read_subscriptions(s) for s in (self._events, self._volumes) if s in ready]
            if any(newcomers):
                due = 0.0  # a heartbeat at once: it tells the newcomer that its subscription holds
            if self._router in ready:
                self._answer()

    def _send_heartbeat(self) -> None:
        draft = drafts.heartbeat_draft(self._sent, time.time())
        self._send(draft, self._outbox.number(schema.HEARTBEAT))

    def _send(self, draft: Draft, sequence: int) -> None:
        self._sent[draft.topic] = sequence
        try:
            frames = schema.serialize(draft.build(self.session_id, sequence))
        except TransportError as error:
            _log.error("message not published", topic=draft.topic, reason=str(error))
            return
        shared = [zmq.Frame(frame) for frame in frames]
        self._last[draft.topic] = shared
        if draft.topic in schema.ON_VOLUMES_SOCKET:
            targets = [self._volumes]
        elif draft.topic in schema.ON_BOTH_SOCKETS:
            targets = [self._events, self._volumes]
        else:
            targets = [self._events]
        for target in targets:
            target.send_multipart(shared, copy=False)

    def _read_subscriptions(self, sock: zmq.Socket[bytes]) -> bool:
        """Count subscriptions; return True if there was a new one."""
        new = False
        while sock.poll(0):
            message = sock.recv()
            if message[:1] not in (b"\0", b"\1"):
                continue
            subscribes = message[:1] == b"\1"
            new |= subscribes
            # every subscriber of ours asks for the heartbeat once, be it by asking for everything
            if sock is self._events and schema.HEARTBEAT.encode().startswith(message[1:]):
                self._subscribers += 1 if subscribes else -1
        return new

    def _answer(self) -> None:
        """Answer one request: the last message of each topic, closed by a heartbeat."""
        identity, *request = self._router.recv_multipart()
        try:
            topics = schema.decode_snapshot_request(request).topics or schema.TOPICS
        except TransportError as error:
            if times := self._seldom.due("request"):
                _log.warning("snapshot request dropped", reason=str(error)[:500], times=times)
            return
        # the volumes may be more than the peer takes: a ROUTER drops then, and the peer asks again
        for topic, frames in self._last.items():
            if topic != schema.HEARTBEAT and topic.startswith(tuple(topics)):
                self._router.send_multipart([zmq.Frame(identity), *frames], copy=False)
        end = drafts.heartbeat_draft(self._sent, time.time()).build(self.session_id, self._sent[schema.HEARTBEAT])
        self._router.send_multipart([identity, *schema.serialize(end)])
