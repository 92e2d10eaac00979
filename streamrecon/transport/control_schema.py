"""Messages of the control socket: versioned structs, pure encode and decode, no sockets.

A command takes two round trips of one JSON frame each: `Knock` is answered by a `Ticket`, which is good for one
`Command` from the same connection; that is answered by an `Answer`. A command that is sent again carries a ticket
that is used up, and is refused, whatever the clocks say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from streamrecon.errors import ProtocolVersionError, TransportError

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 64 * 1024

Verb = Literal["status", "get", "set", "pause", "resume", "snapshot", "checkpoint", "drain", "stop"]
VERBS: tuple[Verb, ...] = get_args(Verb)
Scalar: TypeAlias = str | int | float | bool | None
# done: it has happened; accepted: it will; refused: it cannot be asked for like that; failed: it was tried
Outcome = Literal["done", "accepted", "refused", "failed"]
REFUSAL_KINDS = ("protocol_version", "garbage", "replayed", "revoked", "busy")

_Version: TypeAlias = Annotated[int, Meta(ge=0)]
_Name: TypeAlias = Annotated[str, Meta(max_length=300)]
_Text: TypeAlias = Annotated[str, Meta(max_length=20_000)]
_Token: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Knock(Struct, frozen=True, tag="knock", forbid_unknown_fields=True):
    """A client would like to send a command."""

    version: _Version


class Command(Struct, frozen=True, tag="command", kw_only=True, forbid_unknown_fields=True):
    """What is to be done; ``key`` and ``value`` belong to set and get; ``request`` comes back with the answer."""

    version: _Version
    ticket: _Token
    request: _Token
    verb: Verb
    key: _Name = ""
    value: _Text | int | float | bool | None = None


class Ticket(Struct, frozen=True, tag="ticket", forbid_unknown_fields=True):
    """Leave to send one command within ``seconds``."""

    version: _Version
    ticket: _Token
    seconds: Annotated[float, Meta(gt=0)]


class Answer(Struct, frozen=True, tag="answer", kw_only=True, forbid_unknown_fields=True):
    """What came of a command: a sentence for people, fields for programs."""

    version: _Version
    request: _Token
    outcome: Outcome
    text: _Text
    fields: dict[_Name, Scalar] = {}


class Refusal(Struct, frozen=True, tag="refusal", forbid_unknown_fields=True):
    """A message that was not obeyed, nor looked at any further; ``kind`` is one of `REFUSAL_KINDS`."""

    version: _Version
    kind: _Name
    text: _Text


Request: TypeAlias = Knock | Command
Reply: TypeAlias = Ticket | Answer | Refusal

_T = TypeVar("_T")
_ENCODER = msgspec.json.Encoder()
_REQUEST_DECODER: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_REPLY_DECODER: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


class _Versioned(Struct):
    version: _Version


_VERSION_DECODER = msgspec.json.Decoder(_Versioned)


def encode(message: Request | Reply) -> list[bytes]:
    """Return the frames of a message."""
    return [_ENCODER.encode(message)]


def decode_request(frames: Sequence[bytes]) -> Request:
    """Return what a client sent.

    Raises
    ------
    ProtocolVersionError
        It speaks another version.
    TransportError
        It is not one of our messages.
    """
    return _decode(_REQUEST_DECODER, frames, "the client")


def decode_reply(frames: Sequence[bytes]) -> Reply:
    """Return what the daemon sent.

    Raises
    ------
    ProtocolVersionError
        It speaks another version.
    TransportError
        It is not one of our messages.
    """
    return _decode(_REPLY_DECODER, frames, "the daemon")


def _decode(decoder: msgspec.json.Decoder[_T], frames: Sequence[bytes], who: str) -> _T:
    if len(frames) != 1:
        raise TransportError(f"a control message of {len(frames)} frames came; expected 1")
    if len(frames[0]) > MAX_MESSAGE_BYTES:
        raise TransportError(f"a control message of {len(frames[0])} bytes came; at most {MAX_MESSAGE_BYTES} are taken")
    try:
        # another version may hold anything: it is named before the rest is looked at
        version = _VERSION_DECODER.decode(frames[0]).version
        if version != PROTOCOL_VERSION:
            raise ProtocolVersionError(
                f"{who} speaks control protocol {version}, this side {PROTOCOL_VERSION}; "
                "use the same streamrecon on both sides"
            )
        return decoder.decode(frames[0])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(
            f"a message that is not of the control protocol came ({error}); does something else talk to "
            "control.endpoint?"
        ) from error
