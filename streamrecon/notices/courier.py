"""Carries notices to one channel in a thread of its own: a bounded queue, several attempts, nobody waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from streamrecon.errors import DeliveryError
from streamrecon.notices.channels import Channel
from streamrecon.notices.notice import Notice

QUEUE_LENGTH = 100
# between attempts; after the last a notice is given up
WAITS_SECONDS = (2.0, 10.0, 30.0, 60.0, 300.0)
_LONGEST_WAIT_SECONDS = 600.0

_log = structlog.get_logger(__name__)


class Courier:
    """Deliver notices in order.

    Parameters
    ----------
    channel : Channel
    count : callable
        Told the channel's name and "sent", "failed" or "dropped".
    waits_seconds : sequence of float
        Between attempts; one more attempt than waits.
    """

    def __init__(
        self,
        channel: Channel,
        count: Callable[[str, str], None] = lambda _channel, _outcome: None,
        *,
        waits_seconds: Sequence[float] = WAITS_SECONDS,
    ) -> None:
        self._channel = channel
        self._count = count
        self._waits = tuple(waits_seconds)
        self._queue: deque[Notice] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=f"courier-{channel.name}", daemon=True)
        self._thread.start()

    def put(self, notice: Notice) -> None:
        """Take a notice; returns at once. If too many wait, the oldest is dropped: the newest tell how things are."""
        with self._changed:
            if len(self._queue) >= QUEUE_LENGTH:
                self._queue.popleft()
                self._count(self._channel.name, "dropped")
            self._queue.append(notice)
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Deliver what waits, for so long at most, and end."""
        with self._changed:
            self._closing = True
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            left = len(self._queue)
        if left or self._thread.is_alive():
            _log.warning("notices not sent before the end", channel=self._channel.name, waiting=left)

    def _run(self) -> None:
        while (notice := self._next()) is not None:
            self._carry(notice)

    def _next(self) -> Notice | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue or time.monotonic() >= self._deadline:
                return None
            return self._queue.popleft()

    def _carry(self, notice: Notice) -> None:
        for attempt, wait in enumerate((*self._waits, None), start=1):
            try:
                self._channel.deliver(notice)
            except DeliveryError as error:
                if wait is None or not error.again or not self._pause(max(wait, error.after_seconds)):
                    self._give_up(notice, str(error), attempt)
                    return
            except Exception as error:  # whatever a library raises: the next notice may do better
                self._give_up(notice, type(error).__name__, attempt)
                return
            else:
                self._count(self._channel.name, "sent")
                return

    def _pause(self, seconds: float) -> bool:
        """Wait before the next attempt; return False if there is no time for one before the end."""
        until = time.monotonic() + min(seconds, _LONGEST_WAIT_SECONDS)
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if until >= self._deadline:
                    return False
                self._changed.wait(left)
        return True

    def _give_up(self, notice: Notice, reason: str, attempts: int) -> None:
        self._count(self._channel.name, "failed")
        _log.error(
            "notice given up",
            channel=self._channel.name,
            reason=reason,
            attempts=attempts,
            kind=notice.kind,
            text=notice.body,
        )
