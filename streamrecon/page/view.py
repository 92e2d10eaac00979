"""What the page shows, kept up to date from the session's messages and its ledger; for any thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.client import EventMessage, FscMessage, Message, SessionMessage, StatusMessage, VolumeMessage
from streamrecon.page.history import History
from streamrecon.page.hub import Hub
from streamrecon.page.pictures import angular_picture, preview
from streamrecon.page.words import Facts, State, state_of, symmetry_words
from streamrecon.transport.schema import EVENT, FSC, SESSION, STATUS, VOLUME_FULL, VOLUME_HALF_A, VOLUME_HALF_B

MAP_NAMES = {VOLUME_FULL: "full", VOLUME_HALF_A: "half_a", VOLUME_HALF_B: "half_b"}
HISTORY_COLUMNS = (
    "particles_seen",
    "timestamp",
    "resolution_angstrom",
    "effective_sample_size",
    "log_evidence",
    "images_per_second",
)
_LOG_LENGTH = 200
_TABLE_ROWS = 200
_ASSESSMENT = "assessment/"
SHOWN_TOPICS = (*MAP_NAMES, FSC, STATUS, EVENT, SESSION, _ASSESSMENT)


class SessionView:
    """One session as its page shows it.

    Parameters
    ----------
    hub : Hub
        Gets each section as it changes.
    name : str
        Of the session, until it says so itself.
    """

    def __init__(self, hub: Hub, name: str = "session") -> None:
        self.hub = hub
        self._lock = threading.Lock()
        self._facts = Facts()
        self._session_id = ""
        self._history = History(HISTORY_COLUMNS)
        self._log: deque[dict[str, object]] = deque(maxlen=_LOG_LENGTH)
        self._maps: dict[str, dict[str, object]] = {}
        self._volumes: dict[str, tuple[NDArray[np.float32], float]] = {}
        self._angular: bytes | None = None
        self._assessment: dict[str, Any] = {}
        hub.put("session", {"name": name})
        self._tell_state()

    def take(self, message: Message) -> None:
        """Take in one message of the session."""
        with self._lock:
            header = message.header
            if header.session_id != self._session_id:
                self._start_over(header.session_id)
            self._change(heard=True, ever_heard=True, silence="")
            match message:
                case VolumeMessage() if message.topic in MAP_NAMES:
                    self._take_volume(message)
                case FscMessage():
                    self.hub.put("fsc", {**_fields(header), "fsc": message.fsc.tolist()})
                case StatusMessage():
                    self._take_status(message)
                case EventMessage(header=event):
                    self._log.append({"at": event.timestamp, "kind": event.kind, "text": event.text})
                    self.hub.put("log", {"events": list(self._log)})
                case SessionMessage(header=session):
                    self._change(end_reason=(session.reason or "finished") if session.state == "end" else None)
                    self.hub.put("session", _fields(session))
                case _ if message.topic == _ASSESSMENT:
                    self._take_assessment(_fields(header))

    def worker_silent(self, reason: str) -> None:
        """Take note that the worker is not heard; a session that has ended may be silent."""
        with self._lock:
            self._change(heard=False, silence=reason)

    def take_ledger(self, found: Mapping[str, Any]) -> None:
        """Take in what `streamrecon status` finds; long lists are cut, their lengths stay."""
        entries = [e for e in found["quarantine"]["entries"] if e["dismissed_at"] is None]
        shown = {
            **{
                k: found[k]
                for k in ("running", "attention", "stacks", "manifests", "batches", "particles", "lag_seconds")
            },
            "checkpoint": found["checkpoint"],
            "orphans": found["orphans"][:_TABLE_ROWS],
            "orphans_total": len(found["orphans"]),
            "quarantine": entries[-_TABLE_ROWS:][::-1],
            "quarantine_open": found["quarantine"]["open"],
            "quarantine_dismissed": found["quarantine"]["dismissed"],
        }
        with self._lock:
            self.hub.put("ledger", shown)
            self._change(ledger=shown)

    def volume(self, name: str) -> tuple[NDArray[np.float32], float] | None:
        """Return a map (z, y, x), not larger than a page can show, and its voxel size in angstrom."""
        with self._lock:
            return self._volumes.get(name)

    def angular(self) -> bytes | None:
        """Return the heat map of views as PNG."""
        with self._lock:
            return self._angular

    @property
    def going_on(self) -> bool:
        """Whether the worker is heard and has not said that the session has ended."""
        return self._facts.heard and self._facts.end_reason is None

    @property
    def state(self) -> State:
        """Return where the session stands in words."""
        return state_of(self._facts)

    def _start_over(self, session_id: str) -> None:
        """Another run of the worker; the page shows what the first one found until the second finds something."""
        self._session_id = session_id
        self._change(end_reason=None)

    def _take_status(self, message: StatusMessage) -> None:
        fields = _fields(message.header)
        rows = self._history.rows
        fewer = bool(rows) and (rows[-1][0] or 0) > message.header.particles_seen
        if fewer:
            self._history.clear()  # an earlier checkpoint was taken up, or another session began on this port
        thinned = self._history.add(tuple(fields[c] for c in HISTORY_COLUMNS))
        # open pages add the row of each status themselves
        self.hub.put("history", self._history.as_json(), quiet=not (fewer or thinned))
        self.hub.put("status", fields)
        self._tell_symmetry(fields)
        self._change(status=fields)

    def _take_volume(self, message: VolumeMessage) -> None:
        name, header = MAP_NAMES[message.topic], message.header
        self._volumes[name] = preview(message.volume, header.voxel_size_angstrom)
        shown = self._volumes[name][0]
        self._maps[name] = {
            **_fields(header),
            "version": f"{header.session_id}-{header.sequence}",
            "shown_side": shown.shape[0],
        }
        self.hub.put("maps", {"maps": self._maps, "classes": 1})

    def _take_assessment(self, fields: dict[str, Any]) -> None:
        n_side, counts = fields.get("angular_n_side") or 0, fields.get("angular_counts") or []
        if n_side and sum(counts) > 0:
            self._angular = angular_picture(n_side, np.asarray(counts, np.float64))
        fields["angular_shown"] = self._angular is not None
        fields.pop("angular_counts", None)
        self.hub.put("assessment", fields)
        self._assessment = fields
        self._tell_symmetry(self._facts.status)

    def _tell_symmetry(self, status: Mapping[str, Any]) -> None:
        self.hub.put("symmetry", asdict(symmetry_words(status, self._assessment)))

    def _change(self, **facts: Any) -> None:
        self._facts = Facts(**{**self._facts.__dict__, **facts})
        self._tell_state()

    def _tell_state(self) -> None:
        self.hub.put("state", asdict(self.state))


def _fields(header: object) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(header)
    return fields
