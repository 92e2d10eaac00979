"""Control messages there and back, and what is no message; tickets."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.errors import ProtocolVersionError, StreamReconError, TransportError
from streamrecon.transport import tickets
from streamrecon.transport.control_schema import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    VERBS,
    Answer,
    Command,
    Knock,
    Refusal,
    Ticket,
    decode_reply,
    decode_request,
    encode,
)

TOKEN = "0123456789abcdef" * 2


def command(**changes):
    return Command(**{"version": PROTOCOL_VERSION, "ticket": TOKEN, "request": TOKEN[::-1], "verb": "pause", **changes})


@pytest.mark.parametrize("value", ["debug", 3, 0.5, True, None])
def test_requests_there_and_back(value):
    for message in (Knock(PROTOCOL_VERSION), *(command(verb=verb, key="log.level", value=value) for verb in VERBS)):
        back = decode_request(encode(message))
        assert back == message
        assert type(getattr(back, "value", value)) is type(value) or isinstance(back, Knock)


@pytest.mark.parametrize(
    "message",
    [
        Ticket(PROTOCOL_VERSION, TOKEN, 30.0),
        Answer(version=PROTOCOL_VERSION, request=TOKEN, outcome="done", text="so", fields={"a": None, "b": 1.5}),
        Refusal(PROTOCOL_VERSION, "replayed", "no"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_replies_there_and_back(message):
    assert decode_reply(encode(message)) == message


def altered(**changes):
    return [json.dumps({**json.loads(encode(command())[0]), **changes}).encode()]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"", b""],
        encode(command()) * 2,
        [b"\xff\xfe"],
        [b"[" * 50_000],
        altered(verb="halt"),
        altered(ticket="short"),
        altered(ticket=TOKEN.upper()),
        altered(request=7),
        altered(key="k" * 301),
        altered(value={"a": 1}),
        altered(more=1),
        [b'{"type":"command"}'],
        encode(Ticket(PROTOCOL_VERSION, TOKEN, 1.0)),
    ],
)
def test_what_is_no_request_is_refused(frames):
    with pytest.raises(TransportError) as caught:
        decode_request(frames)
    assert not isinstance(caught.value, ProtocolVersionError)


def test_another_version_is_named_whatever_it_holds():
    frames = [msgspec.json.encode({"type": "entreat", "version": PROTOCOL_VERSION + 1, "please": True})]
    for decode in (decode_request, decode_reply):
        with pytest.raises(ProtocolVersionError, match=f"protocol {PROTOCOL_VERSION + 1}"):
            decode(frames)


def test_a_message_beyond_the_limit_is_not_parsed():
    padded = encode(command())[0] + b" " * MAX_MESSAGE_BYTES
    assert decode_request([padded[:MAX_MESSAGE_BYTES]]) == command()
    with pytest.raises(TransportError, match="at most"):
        decode_request([padded])


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_any_bytes_are_a_message_or_an_error_of_ours(frames):
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(StreamReconError):
            decode(frames)


class TestTickets:
    @pytest.fixture
    def now(self):
        return [100.0]

    @pytest.fixture
    def issued(self, now):
        return tickets.Tickets(lambda: now[0])

    def test_good_once(self, issued):
        ticket = issued.issue(b"alice")
        assert issued.redeem(ticket, b"alice")
        assert not issued.redeem(ticket, b"alice")

    def test_good_for_its_connection_only_and_nobody_else_can_spend_it(self, issued):
        ticket = issued.issue(b"alice")
        assert not issued.redeem(ticket, b"mallory")
        assert issued.redeem(ticket, b"alice")

    def test_good_for_a_while(self, issued, now):
        early, late = issued.issue(b"a"), issued.issue(b"a")
        now[0] += tickets.SECONDS - 0.1
        assert issued.redeem(early, b"a")
        now[0] += 0.2
        assert not issued.redeem(late, b"a")

    def test_made_up_ones_are_not_good(self, issued):
        assert not issued.redeem(TOKEN, b"")
        assert not issued.redeem("", b"")

    def test_so_many_and_no_more(self, issued):
        out = [issued.issue(b"a") for _ in range(tickets.MOST + 5)]
        assert len(set(out)) == len(out)
        assert [issued.redeem(t, b"a") for t in out] == [False] * 5 + [True] * tickets.MOST
