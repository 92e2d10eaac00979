"""Serving a recorded stream again, at the pace at which it came or faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from streamrecon.transport import schema
from streamrecon.transport.publisher import Publisher
from streamrecon.transport.recording import Record


@dataclass(frozen=True)
class Endpoints:
    """Where a replay binds."""

    events: str
    volumes: str
    snapshots: str


class StreamReplayer:
    """Publish the messages of a recording.

    Parameters
    ----------
    endpoints : Endpoints
    speed : float
        1: as recorded; N: N times faster; infinite: without a pause (slow subscribers then lose most of it).
    max_gap_seconds : float
        Longer pauses of the recording are cut to this, before ``speed`` counts.
    on_message : callable
        Told of each message as it goes out.
    sleep, clock : callable
        Replaced in tests, and by what can be interrupted.

    Notes
    -----
    Each recorded session becomes one of the replay's own, so that clients see starts, ends and restarts; session
    ids and sequence numbers are new, and session messages and heartbeats are the replay's; all else is as it was.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        speed: float = 1.0,
        max_gap_seconds: float = float("inf"),
        on_message: Callable[[schema.Message], None] = lambda _: None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = endpoints
        self._speed = speed
        self._max_gap_seconds = max_gap_seconds
        self._on_message = on_message
        self._sleep = sleep
        self._clock = clock
        self._due = 0.0
        self._last_arrival: float | None = None
        self._session_id = ""

    def run(self, records: Iterable[Record]) -> int:
        """Publish all of them; return how many messages went out.

        Raises
        ------
        TransportError
            An endpoint cannot be bound, or a record is no message of this version.
        """
        count = 0
        with ExitStack() as stack:
            publisher: Publisher | None = None
            for record in records:
                message = schema.deserialize(record.frames)
                if isinstance(message, schema.HeartbeatMessage):
                    continue
                self._wait(record.arrived)
                if publisher is None or message.header.session_id != self._session_id:
                    if publisher is not None:
                        publisher.close("the recording goes on with another session")
                    publisher = stack.enter_context(self._publisher_for(message))
                self._publish(publisher, message)
                self._on_message(message)
                count += 1
        return count

    def _publisher_for(self, message: schema.Message) -> Publisher:
        self._session_id = message.header.session_id
        name = message.header.name if isinstance(message, schema.SessionMessage) else "recorded session"
        return Publisher(self._endpoints.events, self._endpoints.volumes, self._endpoints.snapshots, session_name=name)

    def _publish(self, publisher: Publisher, message: schema.Message) -> None:
        if not isinstance(message, schema.SessionMessage):
            publisher.publish_recorded(message)
        elif message.header.state == "end":
            publisher.close(message.header.reason)

    def _wait(self, arrived: float) -> None:
        """Wait until the message is due; what publishing takes is not added to the pauses."""
        if self._last_arrival is None:
            self._due = self._clock()
        else:
            gap = min(max(0.0, arrived - self._last_arrival), self._max_gap_seconds)
            self._due += gap / self._speed
        self._last_arrival = arrived
        pause = self._due - self._clock()
        if pause > 0:
            self._sleep(pause)
