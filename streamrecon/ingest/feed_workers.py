"""What the feed knows of each worker: how much it may be sent, in which form, and how much of that has not left yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import zmq

# as many as feed.credits may say
MAX_CREDITS = 1000
# after a batch that a worker could not read itself so many come with their pixels; then it is asked to read again
BATCHES_WITH_PIXELS = 50
# of batches that wait in memory for a worker, or for all, to read them from its socket
MAX_WAITING_BYTES = 128 * 2**20
MAX_WAITING_BYTES_OF_ALL = 512 * 2**20


@dataclass
class ConnectedWorker:
    """A worker that has said Hello and was not silent for a lease since.

    Attributes
    ----------
    route : bytes
        Where its messages go.
    same_host : bool
        It may be able to read the stacks itself.
    credits : int
        So many batches it may be sent; `MAX_CREDITS` at the most.
    last_heard : float
        Monotonic time.
    paused : bool
        It was told that there is nothing for it just now.
    """

    route: bytes
    same_host: bool
    credits: int
    last_heard: float
    paused: bool = False
    _with_pixels: int = 0

    def __post_init__(self) -> None:
        self.credits = min(self.credits, MAX_CREDITS)

    @property
    def by_reference(self) -> bool:
        """Whether the next batch goes to it by reference."""
        return self.same_host and self._with_pixels == 0

    def add_credits(self, n: int) -> None:
        """Note that it can take so many more batches."""
        self.credits = min(self.credits + n, MAX_CREDITS)

    def note_unreadable(self) -> bool:
        """Note that it could not read a batch by reference; return False if that was known."""
        new = self.by_reference
        self._with_pixels = BATCHES_WITH_PIXELS
        return new

    def note_sent(self) -> None:
        """Note that a batch was sent to it."""
        self.credits -= 1
        self._with_pixels = max(0, self._with_pixels - 1)


class WaitingBytes:
    """Counts, for each route, the bytes of batches that ZeroMQ still holds because the peer has not read so far.

    Credits are a worker's word, and one that sends them and never reads would have us keep the whole queue in memory.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, deque[tuple[int, zmq.MessageTracker]]] = {}

    def add(self, route: bytes, size: int, tracker: zmq.MessageTracker) -> None:
        """Note a message that was handed to ZeroMQ."""
        self._waiting.setdefault(route, deque()).append((size, tracker))

    def has_room(self, route: bytes) -> bool:
        """Whether another batch may be sent there; one at a time always may, whatever its size."""
        sizes = {r: sum(size for size, _ in self._left(r)) for r in list(self._waiting)}
        own = sizes.get(route, 0)
        return own == 0 or (own < MAX_WAITING_BYTES and sum(sizes.values()) < MAX_WAITING_BYTES_OF_ALL)

    def _left(self, route: bytes) -> deque[tuple[int, zmq.MessageTracker]]:
        waiting = self._waiting[route]
        while waiting and waiting[0][1].done:
            waiting.popleft()
        if not waiting:
            del self._waiting[route]
        return waiting
