"""Uploads on a stream of their own are right in whatever order the streams' work is done."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrecon.compute.cuda.transfer import Uploader


class LazyStream:
    """Keeps its work until it is told to do some of it."""

    def __init__(self, world):
        self.world, self.work = world, []

    def add(self, action):
        self.work.append(action)

    def record(self):
        event = Event(self.world)
        self.add(event.reach)
        return event

    def wait_event(self, event):
        self.add(event)

    def step(self):
        """Do the next piece of work, if it need not wait; say whether something was done."""
        if not self.work or (isinstance(self.work[0], Event) and not self.work[0].reached):
            return False
        action = self.work.pop(0)
        if not isinstance(action, Event):
            action()
        return True


class Event:
    def __init__(self, world):
        self.world, self.reached = world, False

    def reach(self):
        self.reached = True

    def synchronize(self):
        while not self.reached:
            assert self.world.step(), "the host waits for what never comes"


class LazyDevice:
    """A device whose streams advance in an order drawn by the test."""

    def __init__(self, order):
        self.compute, self.copy = LazyStream(self), LazyStream(self)
        self.order = order
        self.position = 0

    def step(self):
        first = self.order[self.position % len(self.order)]
        self.position += 1
        streams = (self.copy, self.compute) if first else (self.compute, self.copy)
        return streams[0].step() or streams[1].step()

    def pinned(self, n_bytes):
        return np.zeros(n_bytes, np.uint8)

    def staging(self, n_bytes):
        return np.zeros(n_bytes, np.uint8)

    def copy_in(self, staged, pinned):
        self.copy.add(lambda: staged.__setitem__(slice(None), pinned))

    def take_out(self, staged, shape, dtype):
        fresh = np.zeros(shape, dtype)
        self.compute.add(lambda: fresh.__setitem__(..., staged.view(dtype).reshape(shape)))
        return fresh


@given(
    order=st.lists(st.booleans(), min_size=1, max_size=40),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=8),
    eager=st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
@settings(deadline=None)
def test_every_array_arrives_as_it_was(order, sizes, eager):
    device = LazyDevice(order)
    uploader = Uploader(device)
    rng = np.random.default_rng(0)
    sent, arrived = [], []
    for size, steps in zip(sizes, eager, strict=False):
        host = rng.normal(size=size).astype(np.float32)
        sent.append(host.copy())
        arrived.append(uploader.upload(host))
        host[:] = np.nan  # the caller may do with it what he likes
        for _ in range(steps):
            device.step()
    while device.step():
        pass
    for one, other in zip(sent, arrived, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_next_upload_does_not_wait_for_the_kernels_of_the_last():
    """Two slots: with the compute stream stuck, the copies of two arrays go through."""
    device = LazyDevice([True])
    uploader = Uploader(device)
    for _ in range(2):
        uploader.upload(np.ones(10, np.float32))
    while device.copy.step():
        pass
    assert device.copy.work == []
    assert len(device.compute.work) > 0


def test_memory_in_use_counts_what_is_there(any_device):
    held = any_device.upload(np.ones(2**24, np.float32))
    used, total = any_device.memory_bytes()
    assert held.nbytes <= used < total
