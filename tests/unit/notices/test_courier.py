"""The courier over channels that fail as told."""

import threading
import time
from collections import Counter

import pytest

from streamrecon.errors import DeliveryError
from streamrecon.notices import courier as module
from streamrecon.notices.courier import Courier
from streamrecon.notices.notice import Notice


def notice(text):
    return Notice("failure", "grid7", text, 0.0)


class Channel:
    name = "webhook"

    def __init__(self, *failures):
        self.failures = list(failures)
        self.arrived = []
        self.attempts = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def deliver(self, one):
        self.entered.set()
        assert self.open.wait(60)
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.arrived.append(one.text)


@pytest.fixture
def counted():
    return Counter()


def carry(channel, counted, texts, waits=(0.0, 0.0, 0.0), seconds=60):
    courier = Courier(channel, lambda name, outcome: counted.update([outcome]), waits_seconds=waits)
    for text in texts:
        courier.put(notice(text))
    courier.close(seconds)
    assert not courier._thread.is_alive()
    return channel.arrived


def test_in_order(counted):
    assert carry(Channel(), counted, "abc") == ["a", "b", "c"]
    assert counted == {"sent": 3}


def test_tried_again_until_it_arrives(counted):
    channel = Channel(*[DeliveryError("busy", again=True)] * 3)
    assert carry(channel, counted, "ab") == ["a", "b"]
    assert channel.attempts == 5
    assert counted == {"sent": 2}


def test_given_up_after_the_last_attempt_and_the_next_is_tried(counted):
    channel = Channel(*[DeliveryError("busy", again=True)] * 4)
    assert carry(channel, counted, "ab") == ["b"]
    assert counted == {"failed": 1, "sent": 1}


@pytest.mark.parametrize("error", [DeliveryError("never", again=False), RuntimeError("a library's mistake")])
def test_what_is_hopeless_is_tried_once(counted, error):
    channel = Channel(error)
    assert carry(channel, counted, "ab") == ["b"]
    assert channel.attempts == 2
    assert counted == {"failed": 1, "sent": 1}


def test_a_channel_that_hangs_holds_up_nobody_and_the_newest_are_kept(counted, monkeypatch):
    monkeypatch.setattr(module, "QUEUE_LENGTH", 3)
    channel = Channel()
    channel.open.clear()
    courier = Courier(channel, lambda name, outcome: counted.update([outcome]))
    courier.put(notice("first"))
    assert channel.entered.wait(60)
    for text in "abcdefg":
        courier.put(notice(text))  # returns: nothing has been delivered yet
    assert channel.arrived == []
    assert counted == {"dropped": 4}
    channel.open.set()
    courier.close(60)
    assert channel.arrived == ["first", "e", "f", "g"]
    assert counted == {"dropped": 4, "sent": 4}


def test_the_end_does_not_wait_for_an_attempt_that_is_hours_away(counted):
    channel = Channel(DeliveryError("busy", again=True, after_seconds=3600))
    courier = Courier(channel, lambda name, outcome: counted.update([outcome]))
    courier.put(notice("a"))
    assert channel.entered.wait(60)
    began = time.monotonic()
    courier.close(1.0)
    assert time.monotonic() - began < 30
    courier._thread.join(60)
    assert counted == {"failed": 1}
