"""What of all that happens is worth telling: from messages, counts and times to notices. No sockets, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamrecon.client import EventMessage, Message, SessionMessage, StatusMessage
from streamrecon.config.notify import EventKind, NotifyConfig
from streamrecon.notices.notice import Notice

_KIND_OF_EVENT: dict[str, EventKind] = {
    "symmetry_imposed": "symmetry",
    "symmetry_contradicted": "symmetry",
    "search_unsettled": "stage",
    "batch_refused": "batch_refused",
    "checkpoint_failed": "failure",
    "snapshot_failed": "failure",
    "export_failed": "failure",
}
_KIND_OF_HALVES = {"common": "optimistic: the halves share their poses"}
# who was told of so many set aside is told again at so many times as many
_AGAIN = 2


@dataclass
class _Told:
    """What is known, and what was said about it."""

    stage: str = ""
    particles: int = 0
    resolution_angstrom: float | None = None
    resolution_reached: bool | None = None  # None: no status yet
    folded_at: float = 0.0
    stalled: bool = False
    over: bool = False
    quarantine: int = 0


class Watch:
    """Decide what to tell.

    Parameters
    ----------
    config : NotifyConfig
    session : str
        Its name.
    now : float, seconds
        Unix time; every method takes it, so that tests need not wait.
    """

    def __init__(self, config: NotifyConfig, session: str, now: float) -> None:
        self._config = config
        self._session = session
        self._told = _Told(folded_at=now)

    def take(self, message: Message, now: float) -> list[Notice]:
        """Return what a message of the published stream gives to tell."""
        match message:
            case StatusMessage():
                return self._wanted(self._status(message, now))
            case EventMessage(header=header) if header.kind in _KIND_OF_EVENT:
                return self._wanted([self._notice(_KIND_OF_EVENT[header.kind], header.text, now)])
            case SessionMessage(header=header):
                return self._wanted(self._session_message(header.state, header.reason, now))
            case _:
                return []

    def quarantine(self, count: int, now: float) -> list[Notice]:
        """Take how many files and rows wait for a person; return what that gives to tell."""
        if count <= self._config.quarantine_above:
            self._told.quarantine = 0
            return []
        if count < _AGAIN * self._told.quarantine or self._told.quarantine == count:
            return []
        self._told.quarantine = count
        text = f"{count} files and particles are set aside and wait for a person; see streamrecon quarantine"
        return self._wanted([self._notice("quarantine", text, now)])

    def failure(self, text: str, now: float) -> list[Notice]:
        """Return a notice that something failed, if that is to be told."""
        return self._wanted([self._notice("failure", text, now)])

    def tick(self, now: float) -> list[Notice]:
        """Return what the mere passing of time gives to tell."""
        told = self._told
        if told.over or told.stalled or now - told.folded_at < self._config.stalled_seconds:
            return []
        told.stalled = True
        minutes = self._config.stalled_seconds / 60
        text = f"no particle was folded for {minutes:.0f} minutes; {self._progress()} so far"
        return self._wanted([self._notice("stalled", text, now)])

    def _status(self, message: StatusMessage, now: float) -> Iterable[Notice]:
        told, header = self._told, message.header
        before, told.particles = told.particles, header.particles_seen
        told.resolution_angstrom = header.resolution_angstrom
        told.over = False
        if header.particles_seen != before:
            told.folded_at = now
            if told.stalled:
                told.stalled = False
                yield self._notice("stalled", f"particles are folded again; {self._progress()}", now)
        stage, told.stage = told.stage, header.stage
        if stage not in ("", header.stage):
            yield self._notice("stage", f"the reconstruction is {header.stage} (was {stage}); {self._progress()}", now)
        target = self._config.resolution_angstrom
        reached = target > 0 and header.resolution_angstrom is not None and header.resolution_angstrom <= target
        # who starts on a session that is there already, after a restart, has nothing new to tell
        if reached and told.resolution_reached is False:
            how = _KIND_OF_HALVES.get(header.fsc_kind, "independent halves")
            yield self._notice("resolution", f"{target:g} Å are reached ({how}): {self._progress()}", now)
        told.resolution_reached = bool(told.resolution_reached) or reached

    def _session_message(self, state: str, reason: str, now: float) -> Iterable[Notice]:
        told = self._told
        told.folded_at = now
        told.stalled = False
        told.over = state == "end"
        if state == "end":
            kind: EventKind = "failure" if reason == "failed" else "session_end"
            caution = "; its search had not settled: the map means nothing yet" if told.stage == "searching" else ""
            yield self._notice(kind, f"the reconstruction ended ({reason}) with {self._progress()}{caution}", now)

    def _progress(self) -> str:
        resolution = self._told.resolution_angstrom
        suffix = "no resolution yet" if resolution is None else f"{resolution:.1f} Å"
        return f"{self._told.particles} particles, {suffix}"

    def _notice(self, kind: EventKind, text: str, now: float) -> Notice:
        return Notice(kind, self._session, text, now)

    def _wanted(self, notices: Iterable[Notice]) -> list[Notice]:
        return [notice for notice in notices if notice.kind in self._config.events]
