"""Subscribers over real sockets: asyncio, the newest only, and a publisher that goes away and comes back."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from streamrecon.client import (
    AsyncVolumeSubscriber,
    EventMessage,
    PosesMessage,
    PreviewMessage,
    SessionMessage,
    VolumeMessage,
    VolumeSubscriber,
    wire,
)
from streamrecon.errors import TransportError
from streamrecon.monitor.ports import unused_ports
from streamrecon.transport import schema
from streamrecon.transport.publisher import Publisher
from tests.integration.publishing import FREE_PORT, make_result, make_snapshot, make_status

DEADLINE = 90.0


@pytest.fixture
def publisher():
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, session_name="test", heartbeat_seconds=0.1) as made:
        yield made


@pytest.fixture
def ending():
    """A publisher that is to end: its heartbeats do not fill the queue of a subscriber that stands still meanwhile."""
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, session_name="test", heartbeat_seconds=2.0) as made:
        yield made


def endpoints(publisher):
    return publisher.events, publisher.volumes, publisher.snapshots


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, DEADLINE))


def test_asyncio_gets_the_state_then_what_follows_and_the_end(ending):
    ending.publish_snapshot(make_snapshot(1.0))
    ending.publish_poses(1, make_result(4), make_snapshot().volume[0, 0, :4].astype(int), make_status())

    async def follow():
        seen = []
        async with AsyncVolumeSubscriber(*endpoints(ending), timeout_seconds=60) as messages:
            async for message in messages:
                seen.append(message)
                if len({m.topic for m in seen}) == 7 and not any(isinstance(m, EventMessage) for m in seen):
                    ending.publish_event("note", "after")
                if isinstance(message, EventMessage):
                    ending.close("drained")
            return seen, messages.gaps

    seen, gaps = run(follow())
    kinds = {type(m) for m in seen}
    assert {VolumeMessage, PreviewMessage, PosesMessage, EventMessage, SessionMessage} <= kinds
    assert isinstance(seen[-1], SessionMessage)
    assert seen[-1].header.reason == "drained"
    assert gaps == {}


def test_asyncio_lets_other_tasks_run_while_it_waits(publisher):
    async def follow():
        async def speak():
            await asyncio.sleep(0.1)
            publisher.publish_event("note", "spoken meanwhile")

        async with AsyncVolumeSubscriber(*endpoints(publisher), topics=["event/"]) as messages:
            speaking = asyncio.create_task(speak())
            message = await anext(messages)
            await speaking
            return message.header.text

    assert run(follow()) == "spoken meanwhile"


@pytest.mark.parametrize("latest_only", [False, True])
def test_asyncio_is_told_of_a_lost_publisher(latest_only):
    async def follow():
        async with AsyncVolumeSubscriber("tcp://127.0.0.1:1", timeout_seconds=0.3, latest_only=latest_only) as messages:
            await anext(messages)

    with pytest.raises(TransportError, match="nothing heard"):
        run(follow())


def newest(i):
    return make_snapshot(float(i), box=32)


def test_a_slow_consumer_gets_the_newest_volume_not_a_queue(publisher):
    """Far more goes by than sockets can hold, while nothing is taken."""
    with VolumeSubscriber(*endpoints(publisher), topics=["volume/full/", "event/"], latest_only=True) as messages:
        publisher.publish_event("note", "start")
        assert next(messages).header.text == "start"
        # with the snapshot socket: the first map may be out before this one has joined
        ends = (None, publisher.volumes, publisher.snapshots)
        with VolumeSubscriber(*ends, topics=["volume/half_b/"], timeout_seconds=DEADLINE) as pace:
            for i in range(100):
                publisher.publish_snapshot(newest(i))
                while next(pace).volume[0, 0, 0] != i + 2:
                    pass

        def gone_by():
            return messages.skipped.get("volume/full/", 0) + messages.gaps.get("volume/full/", 0)

        wait_until(lambda: gone_by() >= 99)
        # of those before any may have been lost; nothing is in the way of this one
        publisher.publish_snapshot(newest(100))
        publisher.publish_event("note", "end")
        wait_until(lambda: gone_by() >= 100)
        taken = [next(messages), next(messages)]
        volumes = [m for m in taken if isinstance(m, VolumeMessage)]
        assert [m.volume[0, 0, 0] for m in volumes] == [100.0]
        assert [m.header.text for m in taken if isinstance(m, EventMessage)] == ["end"]
        assert messages.latest() is volumes[0]


def test_asyncio_slow_consumer_gets_the_newest_volume(publisher):
    async def follow():
        async with AsyncVolumeSubscriber(*endpoints(publisher), topics=["volume/full/"], latest_only=True) as messages:
            published = 0
            while not messages.skipped:  # until some have come that nobody took
                publisher.publish_snapshot(newest(published))
                published += 1
                await asyncio.sleep(0.005)
            publisher.publish_snapshot(newest(1000))
            taken = 0
            while (last := await anext(messages)).volume[0, 0, 0] != 1000.0:
                taken += 1
            return taken, published, last.header.sequence

    taken, published, sequence = run(follow())
    assert taken < published
    assert sequence <= published + 1


def test_latest_only_ends_with_the_session_and_tells_of_silence(ending):
    with VolumeSubscriber(*endpoints(ending), latest_only=True) as messages:
        assert isinstance(next(messages), SessionMessage)
        ending.close("done")
        assert [m for m in messages if isinstance(m, SessionMessage)][-1].header.reason == "done"
    with (
        VolumeSubscriber("tcp://127.0.0.1:1", timeout_seconds=0.3, latest_only=True) as messages,
        pytest.raises(TransportError, match="nothing heard"),
    ):
        next(messages)


@pytest.mark.parametrize("latest_only", [False, True])
def test_reconnecting_goes_from_one_publisher_to_the_next(latest_only):
    # bound twice: meanwhile nobody else may be given one of them
    places = [f"tcp://127.0.0.1:{port}" for port in unused_ports(3)]
    with Publisher(*places, heartbeat_seconds=0.1) as one:
        messages = VolumeSubscriber(
            *places, topics=["event/", "session/"], reconnect=True, timeout_seconds=DEADLINE, latest_only=latest_only
        )
        with messages:
            one.publish_event("note", "first")
            while not isinstance(next(messages), EventMessage):
                pass
            assert messages.connected
            one.close("over")
            while not isinstance(message := next(messages), SessionMessage) or message.header.state != "end":
                pass
            with Publisher(*places, heartbeat_seconds=0.1) as two:
                two.publish_event("note", "before you came back")
                while not isinstance(message := next(messages), EventMessage):
                    pass
                assert message.header.text == "before you came back"
                assert message.header.session_id == two.session_id
                assert messages.gaps == {}


@pytest.fixture
def takes_long(monkeypatch):
    """Let a subscriber take longer over a message than the silence that it bears, by its clock; something came."""
    behind = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + behind[0], time=time.time)
    monkeypatch.setattr(wire, "time", clock)

    def take_long(messages):
        for sock in messages._wire.sockets.values():
            assert sock.poll(60_000)
        behind[0] += DEADLINE

    return take_long


def test_who_takes_long_over_a_message_has_not_heard_nothing(publisher, takes_long):
    """While it was busy all that came waited in its sockets: the publisher was never silent."""
    with VolumeSubscriber(*endpoints(publisher), topics=["event/"], timeout_seconds=60) as messages:
        for text in ("first", "second"):
            publisher.publish_event("note", text)
            assert next(messages).header.text == text
            takes_long(messages)
        publisher.publish_event("note", "third")
        assert next(messages).header.text == "third"


def test_asyncio_who_takes_long_over_a_message_has_not_heard_nothing(publisher, takes_long):
    async def follow():
        async with AsyncVolumeSubscriber(*endpoints(publisher), topics=["event/"], timeout_seconds=60) as messages:
            publisher.publish_event("note", "first")
            found = [await anext(messages)]
            takes_long(messages)
            publisher.publish_event("note", "second")
            found.append(await anext(messages))
            return [m.header.text for m in found]

    assert run(follow()) == ["first", "second"]


def test_a_subscriber_may_be_opened_again(publisher):
    publisher.publish_event("note", "kept")
    subscriber = VolumeSubscriber(*endpoints(publisher), topics=["event/"])
    with pytest.raises(TransportError, match="with statement"):
        next(subscriber)
    with subscriber as messages:
        assert next(messages).header.text == "kept"
        publisher.publish_event("note", "while open")
        assert next(messages).header.text == "while open"
    publisher.publish_event("note", "while closed")
    with subscriber as messages:
        assert next(messages).header.text == "while closed"


def test_the_frames_are_there_as_they_came(publisher):
    publisher.publish_event("note", "raw")
    with VolumeSubscriber(*endpoints(publisher), topics=["event/"]) as messages:
        received = messages.next_received()
    assert schema.deserialize(received.frames) == received.message
    assert abs(received.arrived - time.time()) < DEADLINE
