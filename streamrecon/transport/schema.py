"""The publish wire as pure functions: `serialize` and `deserialize`, no sockets.

A message is ``[topic/] [JSON header] [raw C-order array]``; the third frame is there only for kinds that have
an array. Whoever reads these frames needs a JSON parser and nothing of this package. Arrays are little-endian,
volumes (z, y, x). A number the engine does not know yet is ``null``, never NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.transport.headers import (
    ASSESSMENT,
    EVENT,
    FSC,
    HEARTBEAT,
    MAX_ARRAY_BYTES,
    MAX_HEADER_BYTES,
    MAX_SIDE,
    ON_BOTH_SOCKETS,
    ON_VOLUMES_SOCKET,
    POSE_COLUMNS,
    POSES,
    PREVIEW_SIDE,
    PROTOCOL_VERSION,
    SESSION,
    SNAPSHOT_REQUEST,
    STATUS,
    TOPICS,
    VOLUME_FULL,
    VOLUME_HALF_A,
    VOLUME_HALF_B,
    VOLUME_PREVIEW,
    VOLUME_TOPICS,
    ArrayHeader,
    AssessmentHeader,
    EventHeader,
    FscHeader,
    Header,
    HeartbeatHeader,
    PosesHeader,
    PreviewHeader,
    Scalar,
    SessionHeader,
    SnapshotRequest,
    StatusHeader,
    VolumeHeader,
)
from streamrecon.transport.messages import (
    KINDS,
    AssessmentMessage,
    EventMessage,
    FscMessage,
    HeartbeatMessage,
    Message,
    PosesMessage,
    PreviewMessage,
    SessionMessage,
    StatusMessage,
    VolumeMessage,
)

__all__ = [
    "ASSESSMENT",
    "EVENT",
    "FSC",
    "HEARTBEAT",
    "KINDS",
    "MAX_ARRAY_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_SIDE",
    "ON_BOTH_SOCKETS",
    "ON_VOLUMES_SOCKET",
    "POSES",
    "POSE_COLUMNS",
    "PREVIEW_SIDE",
    "PROTOCOL_VERSION",
    "SESSION",
    "STATUS",
    "TOPICS",
    "VOLUME_FULL",
    "VOLUME_HALF_A",
    "VOLUME_HALF_B",
    "VOLUME_PREVIEW",
    "VOLUME_TOPICS",
    "AssessmentHeader",
    "AssessmentMessage",
    "EventHeader",
    "EventMessage",
    "Frames",
    "FscHeader",
    "FscMessage",
    "HeartbeatHeader",
    "HeartbeatMessage",
    "Message",
    "PosesHeader",
    "PosesMessage",
    "PreviewHeader",
    "PreviewMessage",
    "Scalar",
    "SessionHeader",
    "SessionMessage",
    "SnapshotRequest",
    "StatusHeader",
    "StatusMessage",
    "VolumeHeader",
    "VolumeMessage",
    "checksum_of",
    "decode_snapshot_request",
    "deserialize",
    "encode_snapshot_request",
    "finite_or_none",
    "raw_frame",
    "serialize",
]  # fmt: skip

Frames: TypeAlias = "list[bytes | memoryview]"


class _Version(msgspec.Struct):
    protocol_version: int


_encoder = msgspec.json.Encoder()
_version_decoder = msgspec.json.Decoder(_Version)
_header_decoder: msgspec.json.Decoder[Header] = msgspec.json.Decoder(Header)
_request_decoder = msgspec.json.Decoder(SnapshotRequest)


def finite_or_none(value: float) -> float | None:
    """Return the value, or None where JSON has no word for it (NaN, infinity)."""
    return float(value) if math.isfinite(value) else None


def raw_frame(array: NDArray[np.generic]) -> memoryview:
    """Return the array's bytes in C order, little-endian, without a copy where that is possible."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data.cast("B")


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
    kind = KINDS.get(message.topic)
    if kind is None or kind.header is not type(message.header):
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
    if kind.array is not None:
        array: NDArray[np.generic] = getattr(message, kind.array)
        about = cast(ArrayHeader, message.header)
        if array.shape != about.shape or array.dtype != np.dtype(about.dtype):
            raise TransportError(
                f"topic {message.topic}: the header says {about.dtype} of shape {about.shape}, the array is "
                f"{array.dtype.str} of shape {array.shape}"
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
    kind = KINDS[topic]
    message: Message
    if kind.array is None:
        if len(frames) != 2:
            raise TransportError(f"topic {topic}: an array frame of {len(frames[2])} bytes where none belongs")
        message = kind.message(topic, header)
        return message
    if len(frames) != 3:
        raise TransportError(f"topic {topic}: the array frame is missing")
    message = kind.message(topic, header, _decode_array(topic, cast(ArrayHeader, header), frames[2]))
    return message


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


def _decode_header(topic: str, frame: bytes | memoryview) -> Header:
    _check_json(frame, f"topic {topic}")
    try:
        header = _header_decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"topic {topic}: bad header: {error}") from error
    if type(header) is not KINDS[topic].header:
        raise TransportError(f"topic {topic}: a {type(header).__name__} does not belong there")
    return header


def _decode_array(topic: str, header: ArrayHeader, frame: bytes | memoryview) -> NDArray[Any]:
    expected = math.prod(header.shape) * np.dtype(header.dtype).itemsize
    if expected > MAX_ARRAY_BYTES:
        raise TransportError(
            f"topic {topic}: shape {header.shape} is {expected} bytes, at most {MAX_ARRAY_BYTES} are allowed"
        )
    if len(frame) != expected:
        raise TransportError(f"topic {topic}: shape {header.shape} needs {expected} bytes, the frame has {len(frame)}")
    if isinstance(header, PosesHeader) and header.shape[1] != len(header.columns):
        raise TransportError(f"topic {topic}: {header.shape[1]} columns, but {len(header.columns)} names of columns")
    found = checksum_of(frame)
    if found != header.checksum:
        raise TransportError(
            f"topic {topic}: the header says checksum {header.checksum}, the frame has {found}; "
            "it was altered on its way"
        )
    array: NDArray[Any] = np.frombuffer(frame, dtype=header.dtype).reshape(header.shape)
    array.flags.writeable = False
    return array
