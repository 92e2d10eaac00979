"""Messages between ingest and worker: versioned structs, pure encode and decode, no sockets.

A message is one JSON frame; a batch that carries its pixels has a second frame of raw float32, C order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.transport.table_wire import TableWire

PROTOCOL_VERSION = 2
MAX_HEADER_BYTES = 32 * 2**20
MAX_PIXEL_BYTES = 8 * 2**30
# what a worker says is short: its Hello, with a range for each hole in what it has folded, is the longest
MAX_WORKER_MESSAGE_BYTES = 4 * 2**20
MAX_BATCH_ROWS = 10_000
# a worker holds a thousand batches at the most, see the worker's loop
MAX_IDS = 20_000
MAX_ID_RANGES = 100_000

MAX_BATCH_ID = 2**63 - 1  # SQLite's integers end there

BatchId: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_BATCH_ID)]
BatchIds: TypeAlias = Annotated[list[BatchId], Meta(max_length=MAX_IDS)]
Name: TypeAlias = Annotated[str, Meta(max_length=300)]
Text: TypeAlias = Annotated[str, Meta(max_length=20_000)]
IdRange: TypeAlias = tuple[BatchId, BatchId]
Link: TypeAlias = Annotated[str, Meta(max_length=64)]
# 0: of a release that did not count them
HelloNumber: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_BATCH_ID)]


class Hello(Struct, frozen=True, tag="hello", kw_only=True):
    """A worker's first message, and again whenever the server does not know it.

    ``folded`` are the batches in its durable checkpoint, as inclusive ranges; ``held`` those it has in memory
    but has not made durable. ``tip`` is the highest of all these whose link in the ledger's chain it knows, with the
    link: an older copy of the ledger is told by it. ``session`` is the one its checkpoint, or a ledger beside it,
    belongs to, "" if it starts empty. ``drain`` repeats a Drain that the server may have missed. ``number`` counts the
    Hellos of this worker.
    """

    version: int
    worker_id: Annotated[str, Meta(min_length=1, max_length=300)]
    hostname: Name
    credits: Annotated[int, Meta(ge=0, le=10_000)]
    session: Name = ""
    folded: Annotated[list[IdRange], Meta(max_length=MAX_ID_RANGES)] = []
    held: BatchIds = []
    tip: tuple[BatchId, Link] | None = None
    drain: bool = False
    number: HelloNumber = 0


class Credit(Struct, frozen=True, tag="credit"):
    """The worker can take n more batches."""

    n: Annotated[int, Meta(ge=1, le=10_000)]


class Ack(Struct, frozen=True, tag="ack"):
    """These batches are folded and in a durable checkpoint."""

    batch_ids: BatchIds


class Nack(Struct, frozen=True, tag="nack"):
    """The worker cannot use this batch; ``kind`` is an error kind, or `STACK_UNREADABLE`."""

    batch_id: BatchId
    kind: Name
    reason: Text


class Drain(Struct, frozen=True, tag="drain"):
    """A person wants the session to end: take nothing new, and say Drained once everything is folded."""


class Heartbeat(Struct, frozen=True, tag="heartbeat"):
    """The worker is alive, however long its present fold takes."""


class Bye(Struct, frozen=True, tag="bye"):
    """The worker goes; what it was lent may go to the next."""


class Welcome(Struct, frozen=True, tag="welcome", kw_only=True):
    """Answer to Hello; box and pixel size are None until the first stack was ready.

    ``hello`` is the number of the Hello that it answers. Of one that was repeated since, what follows is not to be
    taken: the later Hello did not name it as held, so it is lent anew, perhaps to another worker.
    """

    version: int
    session: Name
    session_name: Name
    lease_seconds: Annotated[float, Meta(gt=0)]
    box_size: int | None = None
    pixel_size_angstrom: float | None = None
    hello: HelloNumber = 0


class Batch(Struct, frozen=True, tag="batch", kw_only=True):
    """One batch: rows whose ``stack_names`` are absolute paths, and their stable identities.

    ``link`` is its place in the ledger's chain of batches.

    With ``by_reference`` the worker reads the images itself; ``stack_bytes`` and ``stack_mtimes_ns`` (one a stack) let
    it check that they are the files in which the ingester found the images. Else a frame of pixels follows.
    """

    batch_id: BatchId
    session: Name
    table: TableWire
    identities: Annotated[list[str], Meta(max_length=MAX_BATCH_ROWS)]
    by_reference: bool
    box_size: Annotated[int, Meta(ge=1, le=8192)]
    link: Link = ""
    stack_bytes: list[int] = []
    stack_mtimes_ns: list[int] = []


class Pause(Struct, frozen=True, tag="pause"):
    """Nothing is queued just now: a good moment to make a checkpoint and acknowledge."""


class Drained(Struct, frozen=True, tag="drained"):
    """End of the stream: everything is folded and nothing more will come."""


class ErrorReply(Struct, frozen=True, tag="error"):
    """The server cannot go on with this worker; one of `ERROR_KINDS`."""

    kind: Name
    message: Text


STACK_UNREADABLE = "stack_unreadable"
ERROR_KINDS = ("protocol_version", "session_mismatch", "lease_lost", "unknown_worker", "superseded")

WorkerMessage: TypeAlias = Hello | Credit | Ack | Nack | Drain | Heartbeat | Bye
IngestMessage: TypeAlias = Welcome | Batch | Pause | Drained | ErrorReply

_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder()
_WORKER_DECODER: msgspec.json.Decoder[WorkerMessage] = msgspec.json.Decoder(WorkerMessage)
_INGEST_DECODER: msgspec.json.Decoder[IngestMessage] = msgspec.json.Decoder(IngestMessage)


def encode(message: WorkerMessage | IngestMessage, pixels: NDArray[np.float32] | None = None) -> list[bytes]:
    """Return the frames of a message."""
    frames = [_ENCODER.encode(message)]
    if pixels is not None:
        frames.append(np.ascontiguousarray(pixels, np.float32).tobytes())
    return frames


def decode_worker_message(frames: Sequence[bytes]) -> WorkerMessage:
    """Return what a worker sent.

    Raises
    ------
    ProtocolVersionError
        A Hello of another version.
    TransportError
        A Hello whose ranges overlap or do not ascend: what they count to is no longer bounded by the batches there are.
    TransportError
        Anything else that is not one of our messages.
    """
    message = _decode(_WORKER_DECODER, frames, 1)
    if isinstance(message, Hello):
        _check_version(message.version, f"worker {message.worker_id!r}")
        _check_ranges(message)
    return message


def decode_ingest_message(frames: Sequence[bytes]) -> tuple[IngestMessage, NDArray[np.float32] | None]:
    """Return what the ingester sent, with the pixels of a batch that carries them.

    Raises
    ------
    ProtocolVersionError
        A Welcome of another version.
    TransportError
        Anything else that is not one of our messages, or pixels that do not fit the header.
    """
    message = _decode(_INGEST_DECODER, frames, 2)
    if isinstance(message, Welcome):
        _check_version(message.version, "the ingester")
    if isinstance(message, Batch):
        if len(message.identities) != len(message.table):
            raise TransportError(
                f"batch {message.batch_id}: {len(message.identities)} identities for "
                f"{len(message.table)} rows; expected equally many; "
                "is the peer a streamrecon of this version?"
            )
        if not message.by_reference:
            return message, _pixels(message, frames)
    if len(frames) != 1:
        raise TransportError(f"{type(message).__name__}: expected 1 frame, found {len(frames)}")
    return message, None


def _decode(decoder: msgspec.json.Decoder[_T], frames: Sequence[bytes], at_most: int) -> _T:
    if not 1 <= len(frames) <= at_most:
        raise TransportError(f"a message of {len(frames)} frames came; expected 1 to {at_most}")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise TransportError(
            f"a header of {len(frames[0])} bytes came; at most {MAX_HEADER_BYTES} are taken; "
            "make feed.batch_size smaller"
        )
    try:
        return decoder.decode(frames[0])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(
            f"a message that is not of the feed protocol came ({error}); does something else talk to feed.endpoint?"
        ) from error


def _check_version(version: int, who: str) -> None:
    if version != PROTOCOL_VERSION:
        raise ProtocolVersionError(
            f"{who} speaks feed protocol {version}, this side {PROTOCOL_VERSION}; "
            "install the same streamrecon on both hosts"
        )


def _check_ranges(hello: Hello) -> None:
    end = 0
    for first, last in hello.folded:
        if not end < first <= last:
            raise TransportError(
                f"worker {hello.worker_id!r}: expected ascending ranges of folded batches, found {first} to {last} "
                f"after {end}; is it a streamrecon of this version?"
            )
        end = last


def _pixels(batch: Batch, frames: Sequence[bytes]) -> NDArray[np.float32]:
    shape = (len(batch.identities), batch.box_size, batch.box_size)
    expected = 4 * shape[0] * shape[1] * shape[2]
    found = len(frames[1]) if len(frames) == 2 else 0
    if found != expected or expected > MAX_PIXEL_BYTES:
        raise TransportError(
            f"batch {batch.batch_id}: expected {expected} bytes of pixels for {shape} float32 "
            f"(at most {MAX_PIXEL_BYTES}), found {found}; is the peer a streamrecon of this version?"
        )
    # A copy: the frame's memory is read-only, images read from a stack are not.
    return np.frombuffer(frames[1], np.float32).reshape(shape).copy()


def compress_ids(ids: Iterable[int]) -> list[tuple[int, int]]:
    """Return the ids as ascending inclusive ranges."""
    ranges: list[tuple[int, int]] = []
    for i in sorted(set(ids)):
        if ranges and ranges[-1][1] == i - 1:
            ranges[-1] = (ranges[-1][0], i)
        else:
            ranges.append((i, i))
    return ranges


def in_ranges(batch_id: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """Return True if the id lies in one of the inclusive ranges, which ascend."""
    at = bisect_right(ranges, batch_id, key=lambda r: r[0]) - 1
    return at >= 0 and batch_id <= ranges[at][1]
