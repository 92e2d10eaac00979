"""What a subscriber knows: joining, losses, restarts, what to hand out next. Pure: no socket, no clock, no waiting.

The owner feeds it frames as they come and asks it what to do: `pop` the next message, ask the snapshot socket
while `wants_state`, stop when `ended`. The sync and the asyncio subscriber differ only in how they wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from streamrecon.errors import SequenceGap, TransportError
from streamrecon.transport import schema
from streamrecon.transport.schema import HeartbeatMessage, Message, SessionMessage

SocketName = Literal["events", "volumes"]
# what a consumer in latest-only mode leaves lying: more are dropped from the front and counted as lost
MAX_WAITING = 1000
# of these every message counts, also in latest-only mode
_NEVER_SUPERSEDED = (schema.EVENT, schema.SESSION)


@dataclass(frozen=True)
class Received:
    """A message, the frames it came in, and when (Unix seconds)."""

    message: Message
    frames: tuple[bytes, ...]
    arrived: float


class StreamState:
    """The logic of a subscriber.

    Parameters
    ----------
    sockets : sequence of {"events", "volumes"}
        Which PUB sockets are followed.
    topics : sequence of str
        Prefixes of wanted topics; none means all.
    timeout_seconds : float
        A socket silent for so long counts as lost.
    has_snapshots : bool
        Whether there is a snapshot socket to ask.
    on_gap : {"count", "raise"}
    latest_only : bool
        Of each topic (but events and session) keep only the newest message that nobody has taken yet.
    reconnect : bool
        Neither silence nor the session's end is an end.

    Attributes
    ----------
    gaps : dict of str to int
        Messages lost on the way, by topic.
    skipped : dict of str to int
        Messages superseded before they were taken (latest-only), by topic.
    """

    def __init__(
        self,
        sockets: Sequence[SocketName],
        *,
        topics: Sequence[str] = (),
        timeout_seconds: float = 10.0,
        has_snapshots: bool = True,
        on_gap: Literal["count", "raise"] = "count",
        latest_only: bool = False,
        reconnect: bool = False,
    ) -> None:
        unknown = [t for t in topics if not any(known.startswith(t) for known in schema.TOPICS)]
        if unknown:
            raise TransportError(f"unknown topics {unknown}; known are {list(schema.TOPICS)}")
        self.topics = tuple(topics) or schema.TOPICS
        self.gaps: dict[str, int] = {}
        self.skipped: dict[str, int] = {}
        self.timeout_seconds = timeout_seconds
        self._has_snapshots = has_snapshots
        self._on_gap = on_gap
        self._latest_only = latest_only
        self.reconnect = reconnect
        self._heard = dict.fromkeys(sockets, 0.0)  # of any monotonic clock
        self._silent: set[SocketName] = set()
        self._not_yet_heard = set(sockets)
        self._ended: set[SocketName] = set()
        self._end: Received | None = None
        self._early: list[tuple[SocketName, Received]] = []
        self._answer: list[Received] = []
        self._ready: deque[Received | TransportError] = deque()
        self._session_id = ""
        self._earlier_sessions: deque[str] = deque(maxlen=8)
        self._sequence: dict[str, int] = {}
        self.wants_state = False

    @property
    def ended(self) -> bool:
        """Return True when nothing more will come: the session ended and all of it was taken."""
        return not self.reconnect and not self._ready and not self.open_sockets

    @property
    def open_sockets(self) -> list[SocketName]:
        """Return the sockets to listen to; none once the session's end has come on each."""
        return [s for s in self._heard if self.reconnect or s not in self._ended]

    @property
    def connected(self) -> bool:
        """Return True while every socket has been heard within the timeout."""
        return not self._silent and not self._not_yet_heard

    def open_at(self, now: float) -> None:
        """Begin to join: the sockets are opened now. What earlier ones told is kept."""
        self._heard = dict.fromkeys(self._heard, now)
        self._not_yet_heard = set(self._heard)
        self._silent.clear()
        self._early.clear()
        self.wants_state = False

    def pop(self) -> Received | TransportError | None:
        """Return the next message or error, None if there is none yet."""
        return self._ready.popleft() if self._ready else None

    def silent(self, now: float) -> SocketName | None:
        """Return a socket that has been silent for too long; None if all is well, or silence is borne."""
        for name in self.open_sockets:
            if now - self._heard[name] >= self.timeout_seconds:
                if not self.reconnect:
                    return name
                self._silent.add(name)
        return None

    def patience(self, now: float) -> float:
        """Return how many seconds may be waited before `silent` has to be asked again."""
        heard = [self._heard[name] for name in self.open_sockets]
        if self.reconnect or not heard:
            return self.timeout_seconds
        return max(0.0, min(heard) + self.timeout_seconds - now)

    def receive(self, name: SocketName, frames: Sequence[bytes], now: float, arrived: float) -> None:
        """Take what came from a PUB socket."""
        self._heard[name] = now
        if name in self._silent:
            self._silent.discard(name)
            # who knows what was missed: catch up as a newcomer does
            self.wants_state = self._has_snapshots and not self._not_yet_heard
        try:
            received = Received(schema.deserialize(frames), tuple(frames), arrived)
        except TransportError as error:
            self._ready.append(error)
            return
        if self._not_yet_heard:
            self._early.append((name, received))
            self._not_yet_heard.discard(name)
            if not self._not_yet_heard:  # every subscription holds now
                self.wants_state = self._has_snapshots
                if not self.wants_state:
                    self._accept_early()
            return
        if self.wants_state:
            self._early.append((name, received))
            return
        self._accept(name, received)

    def forget_answer(self) -> None:
        """Drop a part of an answer: the request is made anew."""
        self._answer.clear()

    def receive_answer(self, frames: Sequence[bytes], arrived: float) -> bool:
        """Take one message of the snapshot socket's answer; return True when it was the last.

        Raises
        ------
        TransportError
            It cannot be read.
        """
        message = schema.deserialize(frames)
        if not isinstance(message, HeartbeatMessage):
            self._answer.append(Received(message, tuple(frames), arrived))
            return False
        if message.header.session_id != self._session_id:
            self._change_session(message.header.session_id)
        self.wants_state = False
        for received in self._answer:
            self._queue(received)
        self._answer.clear()
        for topic, sequence in message.header.last_sequence.items():
            self._sequence[topic] = max(sequence, self._sequence.get(topic, 0))
        self._accept_early()
        return True

    def _accept_early(self) -> None:
        early, self._early = self._early, []
        for name, received in early:
            if self.wants_state:  # one of them showed yet another session
                self._early.append((name, received))
            else:
                self._accept(name, received)

    def _accept(self, name: SocketName, received: Received) -> None:
        message = received.message
        session_id = message.header.session_id
        if session_id in self._earlier_sessions:
            return  # the two sockets do not change over at the same moment
        if session_id != self._session_id:
            restarted = bool(self._session_id)
            self._change_session(session_id)
            if restarted and self._has_snapshots:
                self.wants_state = True
                self._early.append((name, received))
                return
        if isinstance(message, HeartbeatMessage):
            self._compare_with_heartbeat(name, message)
            return
        if isinstance(message, SessionMessage) and message.header.state == "end":
            self._ended.add(name)
            if len(self._ended) < len(self._heard):
                self._end = received  # on the other socket more may be under way
                return
            self._end = None
        self._queue(received)

    def _change_session(self, session_id: str) -> None:
        """Follow another run of the publisher: numbering is its own."""
        if self._end is not None:
            end, self._end = self._end, None
            self._queue(end)
        if self._session_id:
            self._earlier_sessions.append(self._session_id)
        if session_id in self._earlier_sessions:  # told wrongly by a straggler
            self._earlier_sessions.remove(session_id)
        self._session_id = session_id
        self._sequence.clear()
        self._ended.clear()

    def _queue(self, received: Received) -> None:
        message = received.message
        topic, number = message.topic, message.header.sequence
        last = self._sequence.get(topic)
        if last is not None and number <= last:
            return
        self._sequence[topic] = number
        if last is not None and number > last + 1:
            self._lost(topic, last + 1, number)
        # session messages are subscribed to in any case, to see the end
        if not topic.startswith(self.topics):
            return
        if self._latest_only:
            self._make_room(topic)
        self._ready.append(received)

    def _make_room(self, topic: str) -> None:
        """Take out what a newer message supersedes, and bound what nobody takes."""
        if topic not in _NEVER_SUPERSEDED:
            kept = [r for r in self._ready if isinstance(r, TransportError) or r.message.topic != topic]
            if len(kept) < len(self._ready):
                self.skipped[topic] = self.skipped.get(topic, 0) + len(self._ready) - len(kept)
                self._ready = deque(kept)
        while len(self._ready) >= MAX_WAITING:
            oldest = self._ready.popleft()
            if isinstance(oldest, Received):
                self.gaps[oldest.message.topic] = self.gaps.get(oldest.message.topic, 0) + 1

    def _compare_with_heartbeat(self, name: SocketName, message: HeartbeatMessage) -> None:
        """Find losses that no later message has shown: what this socket sent before the heartbeat is here."""
        on_volumes = name == "volumes"
        for topic, sequence in message.header.last_sequence.items():
            if topic in schema.ON_BOTH_SOCKETS or (topic in schema.ON_VOLUMES_SOCKET) != on_volumes:
                continue
            if not topic.startswith(self.topics):
                continue
            last = self._sequence.setdefault(topic, sequence)
            if sequence > last:
                self._sequence[topic] = sequence
                self._lost(topic, last + 1, sequence + 1)

    def _lost(self, topic: str, expected: int, found: int) -> None:
        self.gaps[topic] = self.gaps.get(topic, 0) + found - expected
        if self._on_gap == "raise":
            self._ready.append(
                SequenceGap(
                    f"topic {topic}: expected message {expected}, the next one is {found}: "
                    f"{found - expected} lost; this subscriber reads more slowly than they come: "
                    "subscribe to fewer topics, set latest_only, or iterate on"
                )
            )
