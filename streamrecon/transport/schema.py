"""The publish wire as pure functions: `serialize` and `deserialize`, no sockets.

A message is ``[topic/] [JSON header] [raw C-order array]``; the third frame is there only for volumes and
curves. Whoever reads these frames needs a JSON parser and nothing of this package. Arrays are little-endian
float32, volumes (z, y, x). A number the engine does not know yet is ``null``, never NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import ProtocolVersionError, TransportError

PROTOCOL_VERSION = 1

VOLUME_FULL = "volume/full/"
VOLUME_HALF_A = "volume/half_a/"
VOLUME_HALF_B = "volume/half_b/"
FSC = "fsc/"
STATUS = "status/"
EVENT = "event/"
HEARTBEAT = "heartbeat/"
SESSION = "session/"
VOLUME_TOPICS = (VOLUME_FULL, VOLUME_HALF_A, VOLUME_HALF_B)
TOPICS = (*VOLUME_TOPICS, FSC, STATUS, EVENT, HEARTBEAT, SESSION)

MAX_HEADER_BYTES = 64 * 1024
MAX_ARRAY_BYTES = 4 * 1024**3
MAX_SIDE = 4096

# the one request the snapshot ROUTER answers: ["snapshot", JSON SnapshotRequest]
SNAPSHOT_REQUEST = b"snapshot"

Count = Annotated[int, msgspec.Meta(ge=0)]
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
Angstrom = Annotated[float, msgspec.Meta(gt=0)]
Scalar: TypeAlias = str | int | float | bool | None
Frames: TypeAlias = "list[bytes | memoryview]"


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every header carries.

    Attributes
    ----------
    session_id : str
        Of one run of the publisher; another one means that the worker started anew and numbering with it.
    sequence : int
        Of this topic, from 1, without holes.
    timestamp : float, seconds
        Unix time at which the content was true.
    """

    protocol_version: int = PROTOCOL_VERSION
    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    sequence: Count
    timestamp: float


class Progress(Envelope, frozen=True, kw_only=True):
    """How far the reconstruction was when the content was made."""

    stage: str
    particles_seen: Count
    image_visits: Count
    resolution_angstrom: float | None
    fsc_kind: str


class VolumeHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="volume"):
    """Of a map: ``shape`` is (z, y, x), ``checksum`` the BLAKE2b-128 of the raw frame in hexadecimal."""

    shape: tuple[Side, Side, Side]
    dtype: Literal["<f4"] = "<f4"
    voxel_size_angstrom: Angstrom
    checksum: str


class FscHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="fsc"):
    """Of a half-set FSC curve: entry i is shell i, at i / (box_size * voxel_size_angstrom) per angstrom."""

    shape: tuple[Side]
    dtype: Literal["<f4"] = "<f4"
    box_size: Side
    voxel_size_angstrom: Angstrom
    fsc_threshold: float
    checksum: str


class StatusHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="status"):
    """The engine's status in numbers; ``stage_reason`` tells people what brought it to this stage."""

    step: Count
    k_max: Count
    temperature: float | None
    effective_sample_size: float | None
    coarse_entropy: float | None
    step_seconds: float | None
    images_per_second: float | None
    evaluations_per_image: float | None
    log_evidence: float | None
    inlier_share: float | None = None
    stage_reason: str = ""


class EventHeader(Envelope, frozen=True, kw_only=True, tag_field="type", tag="event"):
    """Something worth telling a person: ``kind`` for programs, ``text`` for people."""

    kind: Annotated[str, msgspec.Meta(max_length=100)]
    text: str
    fields: dict[str, Scalar] = {}


class HeartbeatHeader(Envelope, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """Last sequence number of every topic: who is behind it has lost something."""

    last_sequence: dict[str, Count]


class SessionHeader(Envelope, frozen=True, kw_only=True, tag_field="type", tag="session"):
    """The session starts or ends here; ``reason`` is empty at the start."""

    state: Literal["start", "end"]
    name: str
    software_version: str
    reason: str = ""


class SnapshotRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for the last message of every topic that begins with one of ``topics`` (none given: all)."""

    protocol_version: int = PROTOCOL_VERSION
    topics: tuple[str, ...] = ()


@dataclass(frozen=True)
class VolumeMessage:
    """A map; ``volume`` is (z, y, x) float32, protein positive, and read-only."""

    topic: str
    header: VolumeHeader
    volume: NDArray[np.float32]


@dataclass(frozen=True)
class FscMessage:
    """The half-set FSC, (n_shells,) float32, read-only."""

    topic: str
    header: FscHeader
    fsc: NDArray[np.float32]


@dataclass(frozen=True)
class StatusMessage:
    """The engine's status."""

    topic: str
    header: StatusHeader


@dataclass(frozen=True)
class EventMessage:
    """Something worth telling a person."""

    topic: str
    header: EventHeader


@dataclass(frozen=True)
class HeartbeatMessage:
    """The publisher lives."""

    topic: str
    header: HeartbeatHeader


@dataclass(frozen=True)
class SessionMessage:
    """The session starts or ends."""

    topic: str
    header: SessionHeader


Message: TypeAlias = VolumeMessage | FscMessage | StatusMessage | EventMessage | HeartbeatMessage | SessionMessage
_Header: TypeAlias = VolumeHeader | FscHeader | StatusHeader | EventHeader | HeartbeatHeader | SessionHeader
_TYPE_OF_TOPIC: dict[str, type[_Header]] = {
    **dict.fromkeys(VOLUME_TOPICS, VolumeHeader),
    FSC: FscHeader,
    STATUS: StatusHeader,
    EVENT: EventHeader,
    HEARTBEAT: HeartbeatHeader,
    SESSION: SessionHeader,
}


class _Version(msgspec.Struct):
    protocol_version: int


_encoder = msgspec.json.Encoder()
_version_decoder = msgspec.json.Decoder(_Version)
_header_decoder: msgspec.json.Decoder[_Header] = msgspec.json.Decoder(_Header)
_request_decoder = msgspec.json.Decoder(SnapshotRequest)


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where JSON has no word for it (NaN, infinity)."""
    return float(value) if math.isfinite(value) else None


def raw_frame(array: NDArray[np.float32]) -> memoryview:
    """Return the array's bytes in C order, little-endian, without a copy where that is possible."""
    return np.ascontiguousarray(array, dtype="<f4").data.cast("B")


def checksum_of(frame: bytes | memoryview) -> str:
    """Return the BLAKE2b-128 of a raw frame in hexadecimal."""
    return hashlib.blake2b(frame, digest_size=16).hexdigest()


def serialize(message: Message) -> Frames:
    """Return the frames of a message.

    Raises
    ------
    TransportError
        The topic does not fit the header, the array does not fit its header, or a limit is exceeded.
    """
    if _TYPE_OF_TOPIC.get(message.topic) is not type(message.header):
        raise TransportError(
            f"a {type(message.header).__name__} cannot go out as topic {message.topic!r}; topics are {TOPICS}"
        )
    header = _encoder.encode(message.header)
    if len(header) > MAX_HEADER_BYTES:
        raise TransportError(
            f"topic {message.topic}: header of {len(header)} bytes, at most {MAX_HEADER_BYTES} are allowed; "
            "put less into it"
        )
    frames: Frames = [message.topic.encode(), header]
    if isinstance(message, VolumeMessage | FscMessage):
        array = message.volume if isinstance(message, VolumeMessage) else message.fsc
        if array.shape != message.header.shape:
            raise TransportError(
                f"topic {message.topic}: the header says shape {message.header.shape}, the array is {array.shape}"
            )
        frames.append(raw_frame(array))
    return frames


def deserialize(frames: Sequence[bytes | memoryview]) -> Message:
    """Return the message of some frames; nothing is believed before it is checked.

    The array is a read-only view of the last frame.

    Raises
    ------
    ProtocolVersionError
        The sender speaks another version.
    TransportError
        Anything else that is wrong with the frames.
    """
    if not 2 <= len(frames) <= 3:
        raise TransportError(f"a message has 2 or 3 frames, got {len(frames)}")
    topic = _decode_topic(frames[0])
    header = _decode_header(topic, frames[1])
    if isinstance(header, VolumeHeader | FscHeader):
        if len(frames) != 3:
            raise TransportError(f"topic {topic}: the array frame is missing")
        array = _decode_array(topic, header, frames[2])
        if isinstance(header, VolumeHeader):
            return VolumeMessage(topic, header, array)
        return FscMessage(topic, header, array)
    if len(frames) != 2:
        raise TransportError(f"topic {topic}: an array frame of {len(frames[2])} bytes where none belongs")
    if isinstance(header, StatusHeader):
        return StatusMessage(topic, header)
    if isinstance(header, EventHeader):
        return EventMessage(topic, header)
    if isinstance(header, HeartbeatHeader):
        return HeartbeatMessage(topic, header)
    return SessionMessage(topic, header)


def encode_snapshot_request(topics: Sequence[str] = ()) -> list[bytes]:
    """Return the frames that ask the snapshot ROUTER for the last message of each topic."""
    return [SNAPSHOT_REQUEST, _encoder.encode(SnapshotRequest(topics=tuple(topics)))]


def decode_snapshot_request(frames: Sequence[bytes]) -> SnapshotRequest:
    """Return the request of some frames.

    Raises
    ------
    ProtocolVersionError, TransportError
        As `deserialize`.
    """
    if len(frames) != 2 or frames[0] != SNAPSHOT_REQUEST:
        raise TransportError(f"a request is [{SNAPSHOT_REQUEST!r}, JSON], got {len(frames)} frames")
    _check_json(frames[1], "snapshot request")
    try:
        return _request_decoder.decode(frames[1])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"snapshot request: {error}") from error


def _decode_topic(frame: bytes | memoryview) -> str:
    for topic in TOPICS:
        if frame == topic.encode():
            return topic
    raise TransportError(f"unknown topic {bytes(frame[:40])!r}; known are {TOPICS}")


def _check_json(frame: bytes | memoryview, what: str) -> None:
    """Check length and version before the content is looked at: another version may hold anything."""
    if len(frame) > MAX_HEADER_BYTES:
        raise TransportError(f"{what}: header of {len(frame)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    try:
        version = _version_decoder.decode(frame).protocol_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"{what}: the header is not JSON with a protocol_version: {error}") from error
    if version != PROTOCOL_VERSION:
        raise ProtocolVersionError(
            f"{what}: the sender speaks protocol version {version}, this program {PROTOCOL_VERSION}; "
            "use the same release of streamrecon on both sides"
        )


def _decode_header(topic: str, frame: bytes | memoryview) -> _Header:
    _check_json(frame, f"topic {topic}")
    try:
        header = _header_decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"topic {topic}: bad header: {error}") from error
    if type(header) is not _TYPE_OF_TOPIC[topic]:
        raise TransportError(f"topic {topic}: a {type(header).__name__} does not belong there")
    return header


def _decode_array(topic: str, header: VolumeHeader | FscHeader, frame: bytes | memoryview) -> NDArray[np.float32]:
    expected = math.prod(header.shape) * 4
    if expected > MAX_ARRAY_BYTES:
        raise TransportError(
            f"topic {topic}: shape {header.shape} is {expected} bytes, at most {MAX_ARRAY_BYTES} are allowed"
        )
    if len(frame) != expected:
        raise TransportError(f"topic {topic}: shape {header.shape} needs {expected} bytes, the frame has {len(frame)}")
    found = checksum_of(frame)
    if found != header.checksum:
        raise TransportError(
            f"topic {topic}: the header says checksum {header.checksum}, the frame has {found}; "
            "it was altered on its way"
        )
    array: NDArray[np.float32] = np.frombuffer(frame, dtype="<f4").reshape(header.shape)
    array.flags.writeable = False
    return array
