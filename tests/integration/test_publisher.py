"""The publisher over real sockets, seen by our client."""

import threading
import time

import numpy as np
import pytest
import zmq

from streamrecon.assess.report import Assessment
from streamrecon.client import (
    AssessmentMessage,
    EventMessage,
    FscMessage,
    SessionMessage,
    StatusMessage,
    VolumeMessage,
    VolumeSubscriber,
)
from streamrecon.client.wire import Wire
from streamrecon.errors import SequenceGap, TransportError
from streamrecon.transport import drafts, schema
from streamrecon.transport.publisher import EVENT_HIGH_WATER_MARK, Publisher
from tests.integration.publishing import FREE_PORT, PUBLISHED, make_result, make_snapshot, make_status


@pytest.fixture
def publisher():
    # seldom: of a subscriber that stands still they fill the queue for volumes, and who is full when the session ends
    # is not sent the rest
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, session_name="test", heartbeat_seconds=2.0) as made:
        yield made


def subscriber_of(publisher, **options):
    options.setdefault("timeout_seconds", 60.0)
    return VolumeSubscriber(publisher.events, publisher.volumes, publisher.snapshots, **options)


def take_until(messages, wanted):
    taken = []
    for message in messages:
        taken.append(message)
        if wanted(message):
            return taken
    raise AssertionError(f"ended without it: {taken}")


def is_event(text):
    return lambda m: isinstance(m, EventMessage) and m.header.text == text


def test_a_late_joiner_gets_the_state_and_then_what_follows_without_doubles(publisher):
    publisher.publish_snapshot(make_snapshot(1.0))
    publisher.publish_status(make_status(100))
    publisher.publish_poses(7, make_result(3), np.array([0, 1, 1], np.int8), make_status(100))
    publisher.publish_assessment(Assessment(8, 3.0, resolution_masked_angstrom=9.5), make_status(100))
    publisher.publish_event("note", "before", detail=1)
    with subscriber_of(publisher) as messages:
        taken = take_until(messages, is_event("before"))
        # the order of topics in the state is not promised: read the rest of it
        while len({m.topic for m in taken}) < len(PUBLISHED) + 1:
            taken.append(next(messages))
        topics = [m.topic for m in taken]
        assert sorted(topics) == sorted(set(topics))
        assert set(topics) == PUBLISHED | {schema.ASSESSMENT}
        half_b = next(m for m in taken if m.topic == schema.VOLUME_HALF_B)
        assert (half_b.volume == 3.0).all()
        assessment = next(m for m in taken if isinstance(m, AssessmentMessage)).header
        assert (assessment.resolution_masked_angstrom, assessment.particles_seen) == (9.5, 100)
        publisher.publish_event("note", "after")
        publisher.publish_snapshot(make_snapshot(5.0))
        later = take_until(messages, lambda m: m.topic == schema.VOLUME_HALF_B)
        later += [] if any(map(is_event("after"), later)) else take_until(messages, is_event("after"))
        assert [m.header.sequence for m in later if m.topic == schema.VOLUME_FULL] == [2]
        assert messages.latest(schema.VOLUME_FULL).volume[0, 0, 0] == 5.0
        assert messages.gaps == {}


def test_a_request_too_long_to_be_one_does_no_harm(publisher):
    publisher.publish_event("note", "kept")
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(publisher.snapshots)
        sock.send_multipart(schema.encode_snapshot_request(schema.TOPICS))
        assert sock.poll(60_000), "a request of the right size is answered"
        sock.send(bytes(schema.MAX_HEADER_BYTES + 1))
        while sock.poll(500):
            sock.recv_multipart()
    with subscriber_of(publisher) as messages:
        take_until(messages, is_event("kept"))


def test_joining_does_not_wait_for_the_next_heartbeat():
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, heartbeat_seconds=60) as publisher:
        time.sleep(0.3)
        with subscriber_of(publisher) as messages:
            assert next(messages).topic == schema.SESSION


def test_unknown_numbers_arrive_as_none(publisher):
    with subscriber_of(publisher, topics=["status/"]) as messages:
        publisher.publish_status(make_status())
        message = next(messages)
        assert isinstance(message, StatusMessage)
        assert message.header.resolution_angstrom is None
        assert message.header.temperature == 2.0


def test_the_session_end_ends_the_iteration(publisher):
    publisher.publish_status(make_status())
    with subscriber_of(publisher) as messages:
        first = next(messages)
        assert isinstance(first, SessionMessage | StatusMessage)
        publisher.close("drained")
        rest = list(messages)
    assert isinstance(rest[-1], SessionMessage)
    assert (rest[-1].header.state, rest[-1].header.reason) == ("end", "drained")
    assert messages.gaps == {}


def test_what_was_published_last_comes_before_the_end(publisher):
    with subscriber_of(publisher) as messages:
        next(messages)
        publisher.publish_snapshot(make_snapshot(7.0))
        publisher.publish_status(make_status(700))
        publisher.close("drained")
        rest = list(messages)
    assert [m.volume[0, 0, 0] for m in rest if m.topic == schema.VOLUME_FULL] == [7.0]
    assert [m.header.particles_seen for m in rest if isinstance(m, StatusMessage)] == [700]


def test_a_lost_publisher_is_an_error_with_a_remedy():
    with (
        VolumeSubscriber("tcp://127.0.0.1:1", timeout_seconds=0.3) as messages,
        pytest.raises(TransportError, match=r"nothing heard for 0\.3 s.*streamrecon run"),
    ):
        next(messages)


def test_a_wrong_snapshot_endpoint_is_told(publisher, monkeypatch):
    monkeypatch.setattr(Wire, "check", lambda wire: None)  # how long it takes to hear the publisher does not matter
    wrong = "tcp://127.0.0.1:1"
    with (
        VolumeSubscriber(publisher.events, snapshots=wrong, timeout_seconds=0.4) as messages,
        pytest.raises(TransportError, match="no answer to a snapshot request"),
    ):
        next(messages)


def test_an_occupied_port_is_told(publisher):
    with pytest.raises(TransportError, match="cannot be bound"):
        Publisher(publisher.events, FREE_PORT, FREE_PORT)


def send_by_hand(sock, draft, sequence, session_id="by-hand"):
    sock.send_multipart([bytes(f) for f in schema.serialize(draft.build(session_id, sequence))])


def until_subscribed(sock):
    """Take the subscriptions in, all of them."""
    wanted = {topic.encode() for topic in (*schema.TOPICS, schema.HEARTBEAT)}
    asked = set()
    while not (b"" in asked or wanted <= asked):
        assert sock.poll(60_000), asked
        asked.add(sock.recv()[1:])


@pytest.fixture
def by_hand():
    with zmq.Context() as context, context.socket(zmq.XPUB) as sock:
        sock.linger = 0
        port = sock.bind_to_random_port("tcp://127.0.0.1")
        yield sock, f"tcp://127.0.0.1:{port}"


def test_a_gap_is_raised_or_counted(by_hand):
    sock, endpoint = by_hand

    def event(text):
        return drafts.event_draft("note", text, {}, 0.0)

    with VolumeSubscriber(endpoint, on_gap="raise", timeout_seconds=60) as messages:
        until_subscribed(sock)
        for number in (1, 2, 5):
            send_by_hand(sock, event(str(number)), number)
        send_by_hand(sock, event("again"), 5)
        # two more were lost at the end: only the heartbeat shows it
        send_by_hand(sock, drafts.heartbeat_draft({"event/": 7, "volume/full/": 9}, 0.0), 1)
        assert [next(messages).header.text for _ in range(2)] == ["1", "2"]
        with pytest.raises(SequenceGap, match=r"expected message 3, the next one is 5: 2 lost"):
            next(messages)
        assert next(messages).header.text == "5"
        with pytest.raises(SequenceGap, match="expected message 6, the next one is 8"):
            next(messages)
        send_by_hand(sock, event("8"), 8)
        assert next(messages).header.text == "8"
        assert messages.gaps == {"event/": 4}


def test_a_new_session_is_no_gap_and_a_straggler_of_the_old_one_is_dropped(by_hand):
    sock, endpoint = by_hand
    with VolumeSubscriber(endpoint, timeout_seconds=60) as messages:
        until_subscribed(sock)
        for session, number in (("one", 7), ("two", 1), ("one", 8), ("two", 2)):
            send_by_hand(sock, drafts.event_draft("note", f"{session}{number}", {}, 0.0), number, session)
        assert [next(messages).header.text for _ in range(3)] == ["one7", "two1", "two2"]
        assert messages.gaps == {}


def test_an_unreadable_message_is_raised_once_and_the_next_one_comes(by_hand):
    sock, endpoint = by_hand
    with VolumeSubscriber(endpoint, timeout_seconds=60) as messages:
        until_subscribed(sock)
        send_by_hand(sock, drafts.event_draft("note", "first", {}, 0.0), 1)
        sock.send_multipart([b"event/", b"not JSON"])
        send_by_hand(sock, drafts.event_draft("note", "second", {}, 0.0), 2)
        assert next(messages).header.text == "first"
        with pytest.raises(TransportError, match="not JSON"):
            next(messages)
        assert next(messages).header.text == "second"


def test_a_stalled_subscriber_slows_nobody_and_knows_that_it_lost_something(publisher):
    box = 64
    with (
        subscriber_of(publisher, topics=["volume/full/", "event/"]) as stalled,
        subscriber_of(publisher) as quick,
    ):
        next(quick)
        publisher.publish_event("note", "start")
        take_until(stalled, is_event("start"))
        # many times what sockets and high-water marks hold: 3 MiB a snapshot. Whoever waited for the stalled one
        # would wait for ever, and the quick one with him
        taken = []
        for i in range(60):
            publisher.publish_snapshot(make_snapshot(float(i), box))
            publisher.publish_event("note", str(i))
            taken += take_until(quick, lambda m: m.topic == schema.VOLUME_HALF_B)
        publisher.publish_event("note", "end")
        taken += take_until(quick, is_event("end"))
        assert sum(isinstance(m, FscMessage) for m in taken) == 60
        assert all(any(map(is_event(str(i)), taken)) for i in range(60))
        seen = take_until(stalled, is_event("end"))
        publisher.publish_snapshot(make_snapshot(99.0, box))
        seen += take_until(stalled, lambda m: isinstance(m, VolumeMessage) and m.volume[0, 0, 0] == 99.0)
        assert stalled.gaps["volume/full/"] > 0
        assert quick.gaps == {}


def test_a_full_event_queue_drops_the_oldest_and_the_numbers_show_it(publisher):
    publisher.publish_event("note", "first")
    with subscriber_of(publisher, topics=["event/"]) as messages:
        take_until(messages, is_event("first"))
        for i in range(30 * EVENT_HIGH_WATER_MARK):
            publisher.publish_event("note", str(i))
        seen = threading.Event()

        def say_end_until_seen():  # one said while everything is full may be lost, too
            while not seen.wait(0.1):
                publisher.publish_event("note", "end")

        speaker = threading.Thread(target=say_end_until_seen)
        speaker.start()
        try:
            taken = take_until(messages, is_event("end"))
        finally:
            seen.set()
            speaker.join()
        assert len(taken) + messages.gaps.get("event/", 0) == taken[-1].header.sequence - 1


def test_subscribers_are_counted(publisher):
    def wait_for(count):
        deadline = time.monotonic() + 60
        while publisher.subscribers != count:
            assert time.monotonic() < deadline, publisher.subscribers
            time.sleep(0.01)

    with subscriber_of(publisher) as one:
        next(one)
        with subscriber_of(publisher) as two:
            next(two)
            wait_for(2)
        wait_for(1)
    wait_for(0)


def test_garbage_to_the_snapshot_socket_is_survived(publisher):
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(publisher.snapshots)
        for garbage in ([b""], [b"snapshot"], [b"snapshot", b"{}"], [b"\xff"] * 5):
            dealer.send_multipart(garbage)
        heard = []
        while b"session/" not in heard:  # it may not have been said yet
            dealer.send_multipart(schema.encode_snapshot_request(["session/"]))
            heard = []
            while schema.HEARTBEAT.encode() not in heard:  # the end of an answer
                assert dealer.poll(60_000)
                heard.append(dealer.recv_multipart()[0])
        assert heard == [b"session/", schema.HEARTBEAT.encode()]


def test_ipc_endpoints(tmp_path):
    paths = [f"ipc://{tmp_path}/{name}" for name in ("e", "v", "s")]
    with Publisher(*paths, heartbeat_seconds=0.1) as publisher:
        publisher.publish_event("note", "hello")
        with VolumeSubscriber(*paths, timeout_seconds=60) as messages:
            take_until(messages, is_event("hello"))


def test_a_frame_beyond_the_limit_is_not_taken(monkeypatch):
    """Whoever passes for a publisher cannot fill a subscriber's memory: libzmq hangs up before it takes the frame."""
    monkeypatch.setattr(schema, "MAX_ARRAY_BYTES", 100_000)
    with zmq.Context() as context, context.socket(zmq.XPUB) as sock:
        sock.linger = 0
        port = sock.bind_to_random_port("tcp://127.0.0.1")
        with VolumeSubscriber(f"tcp://127.0.0.1:{port}", timeout_seconds=1.5) as messages:
            assert sock.poll(60_000)  # it has subscribed
            sock.send_multipart([b"heartbeat/", b" " * 100_001])
            with pytest.raises(TransportError, match="nothing heard"):
                next(messages)
