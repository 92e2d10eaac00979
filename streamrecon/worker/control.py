"""What a person may do to a running worker: the orders of the control socket, obeyed between two batches."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from streamrecon.config.live import LIVE_KEYS, all_keys, why_not_live, with_live_value
from streamrecon.config.model import Config
from streamrecon.errors import ConfigError, StreamReconError
from streamrecon.monitor.control_metrics import ControlMetrics
from streamrecon.monitor.logs import set_log_level
from streamrecon.reconstruct.results import EngineStatus
from streamrecon.state.checkpoint import SavedCheckpoint
from streamrecon.transport.control_schema import Outcome, Scalar
from streamrecon.transport.control_server import Order

_READING = ("status", "get")
_UNTIL_RESTART = "until the worker starts again; write it into config.toml to keep it"

_log = structlog.get_logger(__name__)


class Tell(Protocol):
    """Publishes an event and logs it."""

    def __call__(self, kind: str, text: str, **fields: str | int | float) -> None:
        """Tell it."""


@dataclass(frozen=True)
class Steering:
    """What the loop can be made to do.

    Attributes
    ----------
    stop : callable
        Come to the end in order.
    drain : callable
        Have the ingester take nothing new, and end once everything is folded.
    snapshot : callable
        Write and publish a snapshot; returns what went wrong, "" if nothing did.
    tell : Tell
    """

    stop: Callable[[], None]
    drain: Callable[[], None]
    snapshot: Callable[[], str]
    tell: Tell


class Control:
    """The orders that wait, and what they have changed; polled by the worker's loop.

    Parameters
    ----------
    config : Config
    metrics : ControlMetrics or None
    checkpoint : int
        Number of the one that the worker goes on from, 0 without one.

    Attributes
    ----------
    config : Config
        With the values set since the start.
    paused : bool
        Nothing is taken from the feed. Ends with resume, drain, or the worker.
    finishing : str
        Once the stream is over: what is still being done, in words.
    """

    def __init__(self, config: Config, metrics: ControlMetrics | None = None, checkpoint: int = 0) -> None:
        self.config = config
        self.paused = False
        self.finishing = ""
        self._draining = False
        self._ended = False
        self._metrics = metrics
        self._orders: queue.Queue[Order] = queue.Queue()
        self._closing = threading.Lock()
        self._to_start: list[Order] = []
        self._under_way: list[Order] = []
        self._tell: Tell | None = None
        self._checkpoint = checkpoint
        # one tuple, replaced as a whole: the control socket's thread reads it
        self._now: tuple[float, EngineStatus | None, int] = (time.monotonic(), None, 0)

    def submit(self, order: Order) -> None:
        """Take an order, from any thread; it is answered when the loop comes round to it."""
        with self._closing:
            if not self._ended:
                self._orders.put(order)
                return
        order.reply("failed", "the worker is ending", {})

    def look(self) -> tuple[str, Mapping[str, Scalar]]:
        """Answer "status", from any thread, also while the loop is busy or hangs."""
        turn_at, status, unacknowledged = self._now
        waited = time.monotonic() - turn_at
        state = (
            "ending"
            if self._ended
            else "paused"
            if self.paused
            else "finishing"
            if self.finishing
            else "draining"
            if self._draining
            else "running"
        )
        fields: dict[str, Scalar] = {
            "state": state,
            "stage": "waiting" if status is None else status.stage,
            "particles_seen": 0 if status is None else status.particles_seen,
            "resolution_angstrom": _finite(None if status is None else status.resolution_angstrom),
            "unacknowledged_batches": unacknowledged,
            "checkpoint": self._checkpoint or None,
            "seconds_since_turn": round(waited, 1),
        }
        resolution = fields["resolution_angstrom"]
        words = [
            f"{state}, {fields['stage']}",
            f"{fields['particles_seen']} particles in the map",
            *([] if resolution is None else [f"{resolution:.1f} Å"]),
            f"{unacknowledged} batches not yet in a checkpoint",
            *([self.finishing] if self.finishing else []),
            f"the loop came round {waited:.1f} s ago",
        ]
        if self._metrics is not None:
            self._metrics.command("status")
        return "; ".join(words), fields

    def turn(self, steering: Steering, status: EngineStatus | None, unacknowledged: int) -> None:
        """Obey what has been asked for; called by the loop every time it comes round."""
        self._tell = steering.tell
        self._now = (time.monotonic(), status, unacknowledged)
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            try:
                self._obey(order, steering, status)
            except ConfigError as error:
                self._answer(order, "refused", str(error))
            except (StreamReconError, OSError) as error:
                # the session is worth more than a command: it goes on
                self._answer(order, "failed", str(error))

    # checkpoints: one is answered once it is durable, and it must hold all that was folded when it was asked for

    @property
    def checkpoint_asked(self) -> bool:
        """Return True if one is to be started as soon as none is under way."""
        return bool(self._to_start)

    def nothing_to_save(self) -> None:
        """Say that everything folded is durable already."""
        waiting, self._to_start = self._to_start, []
        text = f"everything folded is in checkpoint {self._checkpoint} already"
        for order in waiting:
            if self._checkpoint:
                self._answer(order, "done", text, {"number": self._checkpoint})
            else:
                self._answer(order, "refused", "nothing has been folded yet; wait for the first particles")

    def checkpoint_started(self) -> None:
        """Say that a state was copied that holds everything folded so far."""
        self._under_way += self._to_start
        self._to_start = []

    def checkpoint_durable(self, saved: SavedCheckpoint) -> None:
        """Say that the one under way is durable."""
        self._checkpoint = saved.number
        waiting, self._under_way = self._under_way, []
        for order in waiting:
            fields = {"number": saved.number, "bytes": saved.bytes, "seconds": round(saved.seconds, 3)}
            self._answer(order, "done", f"checkpoint {saved.number} is durable", fields)

    def checkpoint_failed(self, error: StreamReconError) -> None:
        """Say that the one under way could not be written."""
        waiting, self._under_way = self._under_way, []
        for order in waiting:
            self._answer(order, "failed", str(error))

    def close(self) -> None:
        """Answer what waits; the loop has ended."""
        with self._closing:
            self._ended = True
        waiting = self._to_start + self._under_way
        self._to_start, self._under_way = [], []
        while not self._orders.empty():
            waiting.append(self._orders.get_nowait())
        for order in waiting:
            order.reply("failed", "the worker ended before it came to this", {})

    def _obey(self, order: Order, steering: Steering, status: EngineStatus | None) -> None:
        command = order.command
        match command.verb:
            case "pause":
                self._pause(order)
            case "resume":
                was, self.paused = self.paused, False
                self._answer(order, "done", "folding goes on" if was else "it was not paused")
            case "snapshot":
                if status is None or status.particles_seen == 0:
                    self._answer(order, "refused", "nothing is in the map yet; wait for the first particles")
                    return
                wrong = steering.snapshot()
                said = f"snapshot of {status.particles_seen} particles written and published"
                self._answer(order, "failed" if wrong else "done", wrong or said, {"particles": status.particles_seen})
            case "checkpoint":
                self._to_start.append(order)
            case "set":
                self._set(order)
            case "get":
                self._get(order)
            case "drain":
                self.paused = False
                self._draining = True
                steering.drain()
                self._answer(
                    order,
                    "accepted",
                    "nothing new is taken from the watched folder; the session ends once what is queued is folded",
                )
            case "stop":
                self._answer(order, "accepted", "it ends with a checkpoint, a snapshot and the poses")
                self._ended = True
                steering.stop()
            case "status":  # answered by the socket's thread
                self._answer(order, "done", *self.look())

    def _pause(self, order: Order) -> None:
        if self._draining:
            self._answer(
                order, "refused", "it drains: nothing new comes, and it ends by itself; use stop to end it now"
            )
            return
        was, self.paused = self.paused, True
        text = "nothing more is folded until resume; particles wait in the ledger"
        self._answer(order, "done", "it was paused already" if was else text)

    def _set(self, order: Order) -> None:
        key, value = order.command.key, order.command.value
        before = all_keys(self.config).get(key)
        self.config = with_live_value(self.config, key, value)
        after = all_keys(self.config)[key]
        if key == "log.level":
            set_log_level(self.config.log.level)
        self._answer(
            order,
            "done",
            f"{key} is {after!r}, was {before!r}: {_UNTIL_RESTART}",
            {"key": key, "value": _scalar(after), "before": _scalar(before)},
        )

    def _get(self, order: Order) -> None:
        key = order.command.key
        values = all_keys(self.config)
        if not key:
            text = "those that can be set: " + ", ".join(f"{live} = {values[live]!r}" for live in LIVE_KEYS)
            self._answer(order, "done", text, {k: _scalar(v) for k, v in values.items()})
            return
        if key not in values:
            raise ConfigError(f"{key}: there is no such key; see config.toml for all of them")
        reason = why_not_live(key)
        about = "it can be set" if reason is None else f"it cannot be set: {reason}"
        self._answer(order, "done", f"{key} is {values[key]!r}; {about}", {key: _scalar(values[key])})

    def _answer(self, order: Order, outcome: Outcome, text: str, fields: Mapping[str, Scalar] | None = None) -> None:
        verb = order.command.verb
        if self._metrics is not None:
            self._metrics.command(verb)
            self._metrics.paused(self.paused)
        if verb not in _READING and self._tell is not None:
            who = order.by or "somebody on this host"
            self._tell("control", f"{verb} by {who}: {text}", verb=verb, by=order.by, outcome=outcome)
        order.reply(outcome, text, fields or {})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _scalar(value: object) -> Scalar:
    return value if isinstance(value, str | int | float | bool) else str(value)
