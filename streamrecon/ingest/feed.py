"""The feed's server: lends batches to workers over a ZeroMQ ROUTER and marks in the ledger what they folded.

It decides who gets what; the messages themselves are in `streamrecon.transport.feed_schema`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
import zmq

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.ingest.delivery import Delivery
from streamrecon.ingest.feed_workers import MAX_CREDITS, ConnectedWorker, WaitingBytes
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_schema import BatchRecord, BatchStanding
from streamrecon.ingest.metrics import IngestMetrics, NoIngestMetrics
from streamrecon.ingest.root import WatchedRoot
from streamrecon.transport.binding import bind
from streamrecon.transport.feed_schema import (
    MAX_WORKER_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    STACK_UNREADABLE,
    Ack,
    Bye,
    Credit,
    Drain,
    Drained,
    ErrorReply,
    Heartbeat,
    Hello,
    IngestMessage,
    Nack,
    Pause,
    Welcome,
    WorkerMessage,
    decode_worker_message,
    encode,
)
from streamrecon.transport.gate import Gate
from streamrecon.transport.keys import ServerKeys
from streamrecon.transport.seldom import Seldom

_log = structlog.get_logger(__name__)
_MAX_MESSAGES_A_POLL = 1000
_MAX_DEAD_ROUTES = 1000
_MAX_WAITING_MESSAGES = 100
_MAX_UNSENT_MESSAGES = 2 * MAX_CREDITS


class FeedServer:
    """Serves batches; call `poll` again and again from one thread.

    Parameters
    ----------
    ledger : Ledger
    root : WatchedRoot or Path
        Stack names of the ledger are relative to it. While it is away nothing is sent.
    endpoint : str
        Port 0 takes a free one; see `endpoint`.
    lease_seconds : float
        What a worker holds goes back to the queue after this much silence.
    metrics : IngestMetrics
    clock : callable
        Monotonic seconds.
    curve : ServerKeys or None
        With them only workers whose key is authorized get in, and all is encrypted.

    Attributes
    ----------
    endpoint : str
        As bound.
    drain_asked : bool
        A worker has passed on that a person wants the session to end.

    Notes
    -----
    A worker's checkpoint is the truth about what it folded (see `BatchLedger.synchronise`). Only its Ack and
    its Hello move a batch to ``folded``; every other way it ends, the batch is sent again under the same id.
    """

    def __init__(
        self,
        ledger: Ledger,
        root: WatchedRoot | Path,
        endpoint: str,
        lease_seconds: float,
        metrics: IngestMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        curve: ServerKeys | None = None,
    ) -> None:
        self._ledger = ledger
        self._batches = ledger.batches
        self._root = root if isinstance(root, WatchedRoot) else WatchedRoot(root, ledger.good_files)
        self._delivery = Delivery(ledger, self._root.path)
        self._lease_seconds = lease_seconds
        self._metrics = metrics or NoIngestMetrics()
        self._clock = clock
        self._draining = False
        self.drain_asked = False
        self._workers: dict[str, ConnectedWorker] = {}
        self._waiting = WaitingBytes()
        self._superseded: dict[bytes, None] = {}
        # Workers that hold leases from before a restart have as long as any other to come back.
        self._absent_since = dict.fromkeys(self._batches.leases(), clock())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._seldom = Seldom()
        self._gate = Gate(self._context, curve, self._metrics.peer_refused)
        self._socket = self._context.socket(zmq.ROUTER)
        # Credits bound what is under way to a worker that reads: what is dropped beyond is nobody's.
        self._socket.set(zmq.SNDHWM, _MAX_UNSENT_MESSAGES)
        self._socket.set(zmq.LINGER, 1000)
        self._socket.set(zmq.MAXMSGSIZE, MAX_WORKER_MESSAGE_BYTES)
        # of each worker, so many messages wait while we scan: they say little, and seldom
        self._socket.set(zmq.RCVHWM, _MAX_WAITING_MESSAGES)
        self._gate.guard(self._socket, "worker")
        try:
            bind(self._socket, endpoint)
        except zmq.ZMQError as error:
            self._gate.close()
            self._context.destroy(linger=0)
            raise TransportError(
                f"{endpoint}: cannot be bound ({error.strerror}); another session may have it: choose a free "
                "port for feed.endpoint, or end the program that holds it"
            ) from error
        self.endpoint: str = self._socket.get_string(zmq.LAST_ENDPOINT)

    @property
    def worker_count(self) -> int:
        """How many workers were heard of within their lease."""
        return len(self._workers)

    def poll(self, timeout_seconds: float) -> None:
        """Wait for messages, answer those that came, take back expired leases and send what is due."""
        if self._socket.poll(int(timeout_seconds * 1000)):
            # Everything that waits is heard before any lease is called expired: a long scan is our silence.
            for _ in range(_MAX_MESSAGES_A_POLL):
                try:
                    frames = self._socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._receive(frames[0], frames[1:])
        self._gate.poll()
        self._expire()
        self._dispatch()

    def drain(self) -> None:
        """Tell every worker, now and later, that nothing more will come."""
        self._draining = True
        for worker in self._workers.values():
            self._send(worker.route, Drained())

    def close(self) -> None:
        """Close the socket; what was sent still leaves within a second."""
        self._gate.close()
        self._socket.close()
        self._context.term()

    # What workers say

    def _receive(self, route: bytes, frames: Sequence[bytes]) -> None:
        try:
            message = decode_worker_message(frames)
        except ProtocolVersionError as error:
            self._metrics.message_dropped("version")
            if times := self._seldom.due("version"):
                _log.warning("feed_version_refused", reason=str(error), times=times)
            self._send(route, ErrorReply("protocol_version", str(error)))
            return
        except TransportError as error:
            self._metrics.message_dropped("garbage")
            if times := self._seldom.due("garbage"):
                _log.warning("feed_message_dropped", reason=str(error)[:500], times=times)
            return
        if isinstance(message, Hello):
            self._hello(route, message)
            return
        worker_id = next((w for w, worker in self._workers.items() if worker.route == route), None)
        if worker_id is None:
            self._metrics.message_dropped("unknown_worker")
            superseded = route in self._superseded
            self._send(
                route,
                ErrorReply("superseded", "another worker came under this worker's id; stop one of the two")
                if superseded
                else ErrorReply("unknown_worker", "say Hello again"),
            )
            return
        self._workers[worker_id].last_heard = self._clock()
        self._obey(worker_id, message)

    def _obey(self, worker_id: str, message: WorkerMessage) -> None:
        worker = self._workers[worker_id]
        match message:
            case Credit():
                worker.add_credits(message.n)
            case Ack():
                folded, refused = self._batches.fold(message.batch_ids, worker_id)
                self._note_folded(folded, worker_id)
                if refused:
                    self._refuse(worker, worker_id, refused)
            case Nack():
                self._nack(worker, worker_id, message)
            case Bye():
                del self._workers[worker_id]
                requeued = self._batches.requeue(worker_id)
                _log.info("worker_left", worker=worker_id, requeued=requeued)
            case Drain():
                self._note_drain(worker_id)
            case Hello() | Heartbeat():
                pass

    def _note_drain(self, worker_id: str) -> None:
        if not self.drain_asked:
            self.drain_asked = True
            _log.info("drain_asked", worker=worker_id)

    def _hello(self, route: bytes, hello: Hello) -> None:
        session = self._ledger.session
        if hello.session not in ("", session):
            reason = (
                f"{self._ledger.path}: expected a worker of session {session}, found one with a checkpoint or a ledger "
                f"of session {hello.session}; its feed.endpoint is that of another session: give each its own. If this "
                "is the session that is meant, give the worker an empty session.output_dir, or bring back the ledger"
            )
            self._turn_away(route, hello, reason)
            return
        misfit = self._batches.chain.misfit(hello.folded[-1][1] if hello.folded else 0, hello.tip)
        if misfit:
            reason = (
                f"{self._ledger.path}: {misfit} with worker {hello.worker_id}: this ledger is an older copy of the one "
                "that made the worker's batches, and has not made them, or gave their numbers to other particles. Put "
                "the newer ledger back, or begin a new session in another session.output_dir: nothing is lost, the "
                "particles are folded again from their files"
            )
            self._turn_away(route, hello, reason)
            return
        newly_folded, refused, requeued = self._batches.synchronise(hello.worker_id, hello.folded, hello.held)
        before = self._workers.get(hello.worker_id)
        if before is not None and before.route != route:
            self._superseded[before.route] = None
            if len(self._superseded) > _MAX_DEAD_ROUTES:
                del self._superseded[next(iter(self._superseded))]
        self._note_folded(newly_folded, hello.worker_id)
        if refused:
            self._refuse(None, hello.worker_id, refused, route)
            return
        self._absent_since.pop(hello.worker_id, None)
        self._workers[hello.worker_id] = ConnectedWorker(
            route, hello.hostname == socket.gethostname(), hello.credits, self._clock()
        )
        sampling = self._ledger.sampling()
        self._send(
            route,
            Welcome(
                version=PROTOCOL_VERSION,
                session=session,
                session_name=self._ledger.session_name,
                lease_seconds=self._lease_seconds,
                box_size=None if sampling is None else sampling.box_size,
                pixel_size_angstrom=None if sampling is None else sampling.pixel_size_angstrom,
                hello=hello.number,
            ),
        )
        _log.info(
            "worker_came",
            worker=hello.worker_id,
            hostname=hello.hostname,
            newly_folded=len(newly_folded),
            held=len(hello.held),
            requeued=len(requeued),
        )
        if hello.drain:
            self._note_drain(hello.worker_id)
        if self._draining:
            self._send(route, Drained())

    def _turn_away(self, route: bytes, hello: Hello, reason: str) -> None:
        """Tell a worker that its checkpoint is not of this ledger; nothing of what it says is believed."""
        if times := self._seldom.due("misfit"):
            _log.error("worker_refused", worker=hello.worker_id, reason=reason, times=times)
        self._send(route, ErrorReply("session_mismatch", reason))

    def _refuse(
        self, worker: ConnectedWorker | None, worker_id: str, batch_ids: Sequence[int], route: bytes = b""
    ) -> None:
        """Tell a worker that it has batches it must not have, and take everything else back from it."""
        reason = (
            f"{self._ledger.path}: worker {worker_id} has batches {list(batch_ids)[:10]} that the ledger "
            "has withdrawn, has lent to or had folded by another worker, or does not know; restart the "
            "worker from its last checkpoint, and if that has them too, with an empty one"
        )
        _log.error("worker_refused", worker=worker_id, reason=reason)
        self._workers.pop(worker_id, None)
        self._batches.requeue(worker_id)
        self._send(route if worker is None else worker.route, ErrorReply("lease_lost", reason))

    def _nack(self, worker: ConnectedWorker, worker_id: str, nack: Nack) -> None:
        batch = self._batches.get(nack.batch_id)
        if batch is None or batch.state != "leased" or batch.worker != worker_id:
            return
        if nack.kind == STACK_UNREADABLE:
            # Said only of batches by reference, of which several may be under way. It goes out next, under a credit.
            self._batches.put_back(batch.batch_id)
            if self._root.look() and worker.note_unreadable():
                _log.warning("feed_sends_pixels", worker=worker_id, reason=nack.reason)
            return
        _log.error("batch_rejected", worker=worker_id, batch=nack.batch_id, reason=nack.reason)
        bad = dict.fromkeys(self._delivery.identities(batch), (nack.kind, nack.reason))
        self._withdraw(batch, bad)

    # What workers get

    def _expire(self) -> None:
        now = self._clock()
        for worker_id, worker in list(self._workers.items()):
            if now - worker.last_heard > self._lease_seconds:
                del self._workers[worker_id]
                self._take_back(worker_id)
        for worker_id, since in list(self._absent_since.items()):
            if now - since > self._lease_seconds:
                del self._absent_since[worker_id]
                self._take_back(worker_id)
        self._metrics.workers(len(self._workers))

    def _take_back(self, worker_id: str) -> None:
        requeued = self._batches.requeue(worker_id)
        if requeued:
            self._metrics.lease_expired(requeued)
        _log.warning("worker_silent", worker=worker_id, seconds=self._lease_seconds, requeued=requeued)

    def _dispatch(self) -> None:
        for worker_id, worker in list(self._workers.items()):
            while worker.credits > 0 and self._waiting.has_room(worker.route):
                # what is in a folder that is away is not gone: it waits
                batch = self._batches.lease_next(worker_id) if self._root.look_now_and_then() else None
                if batch is None:
                    # Said once each time the queue runs dry: the worker may use the time for a checkpoint.
                    if not worker.paused:
                        worker.paused = True
                        self._send(worker.route, Pause())
                    break
                if not self._deliver(worker, batch):
                    return  # one a round: whoever waits for us is not left alone with many
                worker.paused = False

    def _deliver(self, worker: ConnectedWorker, batch: BatchRecord) -> bool:
        """Send a batch to whom it is lent; one that cannot be read is withdrawn, unless the whole folder is away."""
        message, pixels, bad = self._delivery.prepare(batch, by_reference=worker.by_reference)
        if bad:
            if not self._root.look():
                self._batches.put_back(batch.batch_id)
                return False
            _log.error("batch_withdrawn", batch=batch.batch_id, reason=next(iter(bad.values()))[1])
            self._withdraw(batch, bad)
            return False
        worker.note_sent()
        frames = encode(message, pixels)
        tracker = self._send_frames(worker.route, frames)
        if tracker is not None:
            self._waiting.add(worker.route, sum(map(len, frames)), tracker)
        return True

    def _withdraw(self, batch: BatchRecord, bad: dict[str, tuple[str, str]]) -> None:
        self._batches.withdraw(batch.batch_id, bad)
        for kind, _ in bad.values():
            self._metrics.quarantined(kind)

    def _note_folded(self, folded: Sequence[BatchStanding], worker_id: str) -> None:
        for batch in folded:
            self._metrics.batch_folded(batch.n)
            if batch.worker not in ("", worker_id) and batch.worker in self._workers:
                # It was lent on, and the first borrower turned up with it in a checkpoint after all.
                self._refuse(self._workers[batch.worker], batch.worker, [batch.batch_id])

    def _send(self, route: bytes, message: IngestMessage) -> None:
        self._send_frames(route, encode(message))

    def _send_frames(self, route: bytes, frames: Sequence[bytes]) -> zmq.MessageTracker | None:
        # A ROUTER drops what it cannot route; the lease brings the batch back.
        return self._socket.send_multipart([route, *frames], copy=False, track=True)
