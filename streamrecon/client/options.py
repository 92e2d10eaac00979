"""What can be chosen about a subscriber, the same for the sync and the asyncio one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from streamrecon.client.state import SocketName, StreamState
from streamrecon.client.wire import Wire
from streamrecon.errors import TransportError
from streamrecon.transport import schema
from streamrecon.transport.keys import ClientKeys
from streamrecon.transport.schema import Message


class Subscription:
    """Endpoints and wishes of a subscriber, and the state they lead to. Base class of both subscribers."""

    def __init__(
        self,
        events: str | None = None,
        volumes: str | None = None,
        snapshots: str | None = None,
        *,
        topics: Sequence[str] = (),
        timeout_seconds: float = 10.0,
        on_gap: Literal["count", "raise"] = "count",
        latest_only: bool = False,
        reconnect: bool = False,
        curve: ClientKeys | None = None,
    ) -> None:
        given: tuple[tuple[SocketName, str | None], ...] = (("events", events), ("volumes", volumes))
        self._endpoints = {name: endpoint for name, endpoint in given if endpoint is not None}
        if not self._endpoints:
            raise TransportError("give the endpoint of the events socket, of the volumes socket, or of both")
        self._snapshots = snapshots
        self._curve = curve
        self._latest_only = latest_only
        self._latest: dict[str, Message] = {}
        self._wire: Wire | None = None
        self._state = StreamState(
            list(self._endpoints),
            topics=topics,
            timeout_seconds=timeout_seconds,
            has_snapshots=snapshots is not None,
            on_gap=on_gap,
            latest_only=latest_only,
            reconnect=reconnect,
        )

    @property
    def gaps(self) -> dict[str, int]:
        """Return how many messages were lost on the way, by topic."""
        return self._state.gaps

    @property
    def skipped(self) -> dict[str, int]:
        """Return how many messages a newer one superseded before they were taken, by topic (latest_only)."""
        return self._state.skipped

    @property
    def connected(self) -> bool:
        """Return True while the publisher has been heard within ``timeout_seconds``."""
        return self._state.connected

    def latest(self, topic: str = schema.VOLUME_FULL) -> Message | None:
        """Return the last message of a topic that the iterator gave out, or None."""
        return self._latest.get(topic)

    def _open(self) -> Wire:
        self._state.open_at(time.monotonic())
        self._wire = Wire(self._endpoints, self._snapshots, self._curve, self._state)
        return self._wire

    def _opened(self) -> Wire:
        if self._wire is None:
            raise TransportError("the subscriber is not open; use it in a with statement")
        return self._wire
