"""The subscriber's logic without any socket: every order in which things may come."""

import pytest

from streamrecon.client.state import MAX_WAITING, Received, StreamState
from streamrecon.errors import SequenceGap, TransportError
from streamrecon.transport import drafts, schema


def frames(draft, sequence, session="one"):
    return [bytes(f) for f in schema.serialize(draft.build(session, sequence))]


def event(number, session="one"):
    return frames(drafts.event_draft("note", str(number), {}, 0.0), number, session)


def heartbeat(session="one", **last):
    return frames(drafts.heartbeat_draft({f"{k}/": v for k, v in last.items()}, 0.0), 1, session)


def end(session="one"):
    return frames(drafts.session_draft("end", "name", "0", "done", 0.0), 2, session)


def taken(state):
    out = []
    while (item := state.pop()) is not None:
        if isinstance(item, Received):
            message = item.message
            out.append(message.header.text if message.topic == "event/" else message.topic)
        else:
            out.append(type(item))
    return out


def joined(*, sockets=("events",), **options):
    state = StreamState(sockets, has_snapshots=False, **options)
    for name in sockets:
        state.receive(name, heartbeat(), 0.0, 0.0)
    return state


def test_nothing_is_handed_out_before_every_subscription_holds_and_the_state_is_there():
    state = StreamState(["events", "volumes"])
    state.receive("events", event(5), 0.0, 0.0)
    assert (state.pop(), state.wants_state) == (None, False)
    state.receive("volumes", heartbeat(), 0.0, 0.0)
    assert state.wants_state
    state.receive("events", event(6), 0.0, 0.0)
    assert state.pop() is None
    assert not state.receive_answer(event(5), 0.0)
    assert state.receive_answer(heartbeat(event=5), 0.0)
    assert taken(state) == ["5", "6"]
    assert (state.wants_state, state.gaps) == (False, {})


def test_what_the_answer_left_out_is_no_gap():
    state = StreamState(["events"])
    state.receive("events", heartbeat(), 0.0, 0.0)
    assert state.receive_answer(heartbeat(event=7), 0.0)
    state.receive("events", event(8), 0.0, 0.0)
    assert (taken(state), state.gaps) == (["8"], {})


def test_an_answer_cut_short_is_forgotten():
    state = StreamState(["events"])
    state.receive("events", heartbeat(), 0.0, 0.0)
    state.receive_answer(event(3), 0.0)
    state.forget_answer()
    state.receive_answer(event(4), 0.0)
    state.receive_answer(heartbeat(event=4), 0.0)
    assert taken(state) == ["4"]


@pytest.mark.parametrize("answer_of", ["one", "two"])
def test_a_restart_while_joining_ends_in_the_new_session(answer_of):
    """The state may be of either session, whichever the snapshot socket belonged to when it was asked."""
    state = StreamState(["events"])
    state.receive("events", event(5, "one"), 0.0, 0.0)
    state.receive_answer(heartbeat(answer_of, event=5 if answer_of == "one" else 0), 0.0)
    state.receive("events", event(1, "two"), 0.0, 0.0)
    if state.wants_state:
        state.receive_answer(heartbeat("two", event=0), 0.0)
    state.receive("events", event(2, "two"), 0.0, 0.0)
    while state.wants_state:
        state.receive_answer(heartbeat("two", event=2), 0.0)
    state.receive("events", event(3, "two"), 0.0, 0.0)
    assert taken(state)[-1] == "3"
    assert state.gaps == {}


def test_gaps_are_counted_once_and_told_if_asked():
    state = joined(on_gap="raise")
    for number in (1, 2, 5, 5, 4):
        state.receive("events", event(number), 0.0, 0.0)
    state.receive("events", heartbeat(event=7), 0.0, 0.0)
    state.receive("events", heartbeat(event=7), 0.0, 0.0)
    assert taken(state) == ["1", "2", SequenceGap, "5", SequenceGap]
    assert state.gaps == {"event/": 4}


def test_latest_only_keeps_the_newest_of_each_topic_and_every_event():
    state = joined(latest_only=True)
    status = "status/"
    for number in range(1, 6):
        state.receive("events", event(number), 0.0, 0.0)
        raw = b'{"type":"status","protocol_version":1,"session_id":"one","sequence":%d,"timestamp":0,' % number
        raw += b'"stage":"x","particles_seen":1,"image_visits":1,"resolution_angstrom":null,"fsc_kind":"c","step":1,'
        raw += b'"k_max":1,"temperature":null,"effective_sample_size":null,"coarse_entropy":null,"step_seconds":null,'
        raw += b'"images_per_second":null,"evaluations_per_image":null,"log_evidence":null}'
        state.receive("events", [status.encode(), raw], 0.0, 0.0)
    assert taken(state) == ["1", "2", "3", "4", "5", "status/"]
    assert (state.skipped, state.gaps) == ({"status/": 4}, {})


def test_latest_only_is_bounded_whatever_nobody_takes():
    state = joined(latest_only=True)
    for number in range(1, MAX_WAITING + 11):
        state.receive("events", event(number), 0.0, 0.0)
    left = taken(state)
    assert (len(left), left[-1]) == (MAX_WAITING, str(MAX_WAITING + 10))
    assert state.gaps == {"event/": 10}


def test_silence_is_told_of_the_socket_that_is_silent():
    state = joined(sockets=("events", "volumes"), timeout_seconds=5.0)
    state.receive("events", heartbeat(), 4.0, 0.0)
    assert state.silent(4.9) is None
    assert state.patience(4.0) == pytest.approx(1.0)
    assert state.silent(5.1) == "volumes"


def test_reconnecting_bears_silence_and_catches_up_after_it():
    state = StreamState(["events"], reconnect=True, timeout_seconds=5.0)
    state.receive("events", heartbeat(), 0.0, 0.0)
    state.receive_answer(heartbeat(event=3), 0.0)
    assert state.connected
    assert state.silent(100.0) is None
    assert not state.connected
    state.receive("events", event(9), 101.0, 0.0)
    assert (state.connected, state.wants_state) == (True, True)
    state.receive_answer(event(8), 0.0)
    state.receive_answer(heartbeat(event=8), 0.0)
    assert taken(state) == ["8", "9"]
    assert state.gaps == {"event/": 4}  # 4 to 7


def test_the_end_ends_it_once_it_came_on_every_socket_unless_reconnecting():
    state = joined(sockets=("events", "volumes"))
    state.receive("events", end(), 0.0, 0.0)
    state.receive("volumes", heartbeat(), 0.0, 0.0)
    assert (taken(state), state.ended) == ([], False)
    state.receive("volumes", end(), 0.0, 0.0)
    assert (taken(state), state.ended) == (["session/"], True)
    forever = joined(reconnect=True)
    forever.receive("events", end(), 0.0, 0.0)
    assert taken(forever) == ["session/"]
    forever.receive("events", event(1, "two"), 0.0, 0.0)
    assert (taken(forever), forever.ended) == (["1"], False)


def test_an_end_that_one_socket_missed_is_told_before_the_next_session():
    state = joined(sockets=("events", "volumes"), reconnect=True)
    state.receive("events", end(), 0.0, 0.0)
    state.receive("events", event(1, "two"), 0.0, 0.0)
    assert taken(state) == ["session/", "1"]


def test_unreadable_frames_are_one_error_and_nothing_else():
    state = joined()
    state.receive("events", [b"event/", b"x"], 0.0, 0.0)
    state.receive("events", event(1), 0.0, 0.0)
    assert taken(state) == [TransportError, "1"]


def test_frames_and_arrival_are_kept_with_the_message():
    state = joined()
    state.receive("events", event(1), 0.0, 123.5)
    received = state.pop()
    assert (list(received.frames), received.arrived) == (event(1), 123.5)
