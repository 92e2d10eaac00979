"""The worker's end of the feed: batches come in order of their ids, and none is handed out twice.

The socket lives in `streamrecon.transport.feed_link`, which also keeps the leases alive while a fold runs.
"""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import structlog
from numpy.typing import NDArray

from streamrecon.errors import (
    AuthenticationError,
    CheckpointIncompatible,
    IngestError,
    ProtocolVersionError,
    TransportError,
)
from streamrecon.io.mrc import read_sections
from streamrecon.particles import ParticleBatch, ParticleTable
from streamrecon.transport.feed_link import FeedLink
from streamrecon.transport.feed_schema import (
    MAX_PIXEL_BYTES,
    STACK_UNREADABLE,
    Batch,
    Drained,
    ErrorReply,
    Pause,
    Welcome,
)
from streamrecon.transport.keys import ClientKeys
from streamrecon.transport.table_wire import table_from_wire

_log = structlog.get_logger(__name__)
_ERRORS: dict[str, type[CheckpointIncompatible] | type[TransportError]] = {
    "authentication": AuthenticationError,
    "protocol_version": ProtocolVersionError,
    "session_mismatch": CheckpointIncompatible,
    "lease_lost": CheckpointIncompatible,
}


class FeedClient:
    """Receives batches from an ingester; used from one thread.

    Parameters
    ----------
    endpoint : str
    worker_id : str
        The same each time this worker starts: the ingester files what was folded under it.
    folded : iterable of int
        Ids in the worker's durable checkpoint.
    session : str
        The session that checkpoint belongs to (`session` of the client that filled it), and without one that of the
        ledger beside it: batches of another are refused. "": of any.
    folded_link : str
        What `link` said of the highest id in it, "" if that is not known.
    credits : int
        So many batches are sent ahead.
    hostname : str or None
        Of this host; batches go by reference if it is the ingester's.
    curve : ClientKeys or None
        Of a worker, if the ingester wants CURVE.
    root : Path or None
        Stacks by reference are opened only below it; for others, as for those that are not seen from here, the
        pixels are asked for. None: wherever the ingester says.

    Notes
    -----
    Drive it so: `poll`, fold, and once a checkpoint is durable `ack` the ids in it. The ids acknowledged, the
    `link` of the highest and the session go into the checkpoint and come back here as ``folded``, ``folded_link``
    and ``session`` after a restart.
    A batch that was handed out but not acknowledged when the process ends is sent again, under the same id
    with the same content. If the ingester restarts, the client says Hello by itself and goes on.

    Examples
    --------
    >>> with FeedClient(endpoint, "worker", folded=ids, session=session) as feed:  # doctest: +SKIP
    ...     while not feed.drained:
    ...         item = feed.poll(0.5)
    ...         if item is not None:
    ...             batch_id, batch = item
    ...             engine.fold(batch)
    """

    def __init__(
        self,
        endpoint: str,
        worker_id: str,
        *,
        folded: Iterable[int] = (),
        session: str = "",
        folded_link: str = "",
        credits: int = 4,
        hostname: str | None = None,
        curve: ClientKeys | None = None,
        root: Path | None = None,
    ) -> None:
        self._session = session
        self._roots = None if root is None else (root.absolute(), root.resolve())
        self._welcome: Welcome | None = None
        self._drained = False
        self._paused = False
        self._link = FeedLink(
            endpoint, worker_id, hostname or socket.gethostname(), credits, session, folded, folded_link, curve
        )

    def __enter__(self) -> FeedClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def session(self) -> str:
        """The ledger's session: store it with the checkpoint; "" until the ingester has answered."""
        return self._session

    @property
    def welcome(self) -> Welcome | None:
        """The ingester's answer to Hello, None until it came."""
        return self._welcome

    @property
    def paused(self) -> bool:
        """True while nothing is queued: a good moment for a checkpoint."""
        return self._paused

    @property
    def drained(self) -> bool:
        """True once everything is folded and nothing more will come."""
        return self._drained

    def poll(self, timeout_seconds: float) -> tuple[int, ParticleBatch] | None:
        """Return the next batch, or None if none comes in time.

        Raises
        ------
        CheckpointIncompatible
            The checkpoint does not belong to this ledger, or holds batches that it must not.
        ProtocolVersionError
            The ingester speaks another version.
        AuthenticationError
            The ingester does not know our key, we do not know its, or only one of us wants CURVE.
        TransportError
            Another worker has come under this worker's id.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                message, pixels = self._link.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            match message:
                case Batch():
                    self._paused = False
                    self._link.taken()
                    batch = self._open(message, pixels)
                    if batch is not None:
                        return message.batch_id, batch
                case Welcome():
                    self._welcome = message
                    self._session = message.session
                case Pause():
                    self._paused = True
                case Drained():
                    self._drained = True
                    return None
                case ErrorReply():
                    raise _ERRORS.get(message.kind, TransportError)(message.message)

    def ack(self, batch_ids: Iterable[int]) -> None:
        """Say that these batches are in a durable checkpoint; they will not be sent again."""
        ids = list(batch_ids)
        if ids:
            self._link.acknowledge(ids)

    def link(self, batch_id: int) -> str:
        """Return the link in the ledger's chain of a batch that is held, or of the highest that is durable.

        It goes into the checkpoint with the ids: by it a ledger is told that was put back from an older copy and gave
        the same ids to other particles. "" if it is not known.
        """
        return self._link.link(batch_id)

    def nack(self, batch_id: int, kind: str, reason: str) -> None:
        """Give back a batch that cannot be folded: its particles are quarantined under ``kind``."""
        self._link.give_back(batch_id, kind, reason)

    def drain(self) -> None:
        """Ask the ingester to take nothing new; `drained` becomes true once everything is folded."""
        self._link.drain()

    def close(self) -> None:
        """Say Bye and close; what was not acknowledged may go to the next worker."""
        self._link.close()

    def _open(self, message: Batch, pixels: NDArray[np.float32] | None) -> ParticleBatch | None:
        try:
            table = table_from_wire(message.table)
            images = self._read_by_reference(message, table) if pixels is None else pixels
        except (IngestError, OSError) as error:
            # Not seen from here, forbidden, changed, or on a server that does not answer: the ingester sends the same
            # batch again with its pixels.
            _log.warning("batch_unreadable_here", batch=message.batch_id, reason=str(error))
            self.nack(message.batch_id, STACK_UNREADABLE, str(error))
            return None
        return ParticleBatch(images, table, tuple(message.identities))

    def _read_by_reference(self, message: Batch, table: ParticleTable) -> NDArray[np.float32]:
        for name in table.stack_names:
            path = Path(name)
            # links below the root may lead anywhere, as in the ingester; a name may not
            if self._roots is not None and (".." in path.parts or not any(map(path.is_relative_to, self._roots))):
                raise IngestError(f"{path}: expected a stack below {self._roots[0]}; pixels are asked for instead")
        return _read_stacks(message, table)


def _read_stacks(message: Batch, table: ParticleTable) -> NDArray[np.float32]:
    shape = (message.box_size, message.box_size)
    needed = 4 * len(table) * message.box_size**2
    if needed > MAX_PIXEL_BYTES:
        raise IngestError(
            f"batch {message.batch_id}: expected at most {MAX_PIXEL_BYTES} bytes of pixels, found {needed}; make "
            "feed.batch_size smaller"
        )
    if not len(message.stack_bytes) == len(message.stack_mtimes_ns) == len(table.stack_names):
        raise IngestError(
            f"batch {message.batch_id}: expected size and time of change of {len(table.stack_names)} stacks, found "
            f"{len(message.stack_bytes)} and {len(message.stack_mtimes_ns)}; pixels are asked for instead"
        )
    images = np.empty((len(table), *shape), np.float32)
    # as it was when the ingester found the images in it: what lies there now may be another
    signatures = zip(message.stack_bytes, message.stack_mtimes_ns, strict=True)
    for number, (name, signature) in enumerate(zip(table.stack_names, signatures, strict=True)):
        path = Path(name)
        rows = np.flatnonzero(table.stack_number == number)
        sections = read_sections(path, table.stack_index[rows], signature=signature)
        if sections.shape[1:] != shape:
            raise IngestError(f"{path}: expected {shape} pixels, found {sections.shape[1:]}; it was replaced")
        images[rows] = sections
    return images
