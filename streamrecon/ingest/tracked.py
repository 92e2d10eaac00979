"""What the collector keeps in memory of each stack and manifest, and how it tells the ledger of changes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from streamrecon.errors import UnsupportedFormat
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_schema import FileRecord
from streamrecon.ingest.metrics import FILE_STATES, IngestMetrics
from streamrecon.ingest.settle import FileSettle, FileState
from streamrecon.ingest.waiting_rows import NO_ROWS
from streamrecon.io.regular import open_regular
from streamrecon.transport.table_wire import ParticleRow

_log = structlog.get_logger(__name__)
_PATIENCE_SETTLES = 10.0


@dataclass(frozen=True)
class CollectSettings:
    """How the collector judges files; see `SettleTimes`."""

    settle_seconds: float = 2.0
    orphan_seconds: float = 600.0
    require_ctf: bool = True

    @property
    def patience_seconds(self) -> float:
        """After so long a manifest that never stands still, or does not end in a newline, is read as it is."""
        return max(1.0, _PATIENCE_SETTLES * self.settle_seconds)


@dataclass(slots=True)  # there is one of them for each file of a session
class Tracked:
    """A file that is followed.

    ``root`` is the watched folder, ``name`` the path below it, ``state`` the one last told to the ledger, ``walk``
    the number of the last scan that found the file.
    """

    root: Path
    name: str
    settle: FileSettle
    state: FileState | None = None
    walk: int = 0

    @property
    def path(self) -> Path:
        """The absolute path, made when it is asked for: of a session's files most are never touched again."""
        return self.root / self.name


@dataclass(slots=True)
class Stack(Tracked):
    """A stack; ``rows`` are those that manifests place in it and that are not in the ledger yet.

    ``manifests`` are the names of those that name it. ``known`` has a bit set for each section whose particle is in the
    ledger, the lowest first; None until it is asked for. ``replaced`` is set if it held other images before: other
    stacks are looked at first, as they may have those now. ``sought`` is how many had been lost when it was last asked
    whether it holds the images of one of them.

    Notes
    -----
    Most stacks of a session are finished and stay so: tuples and bytes are smaller than what can be changed in place.
    """

    rows: Mapping[int, ParticleRow] = field(default_factory=lambda: NO_ROWS)
    rows_at: float = 0.0
    manifests: tuple[str, ...] = ()
    known: bytes | None = None
    sections: int = 0
    replaced: bool = False
    sought: int = -1

    @property
    def manifest_path(self) -> Path:
        """A manifest that names it, for messages; the stack itself if there is none."""
        return self.root / min(self.manifests, default=self.name)

    def are_known(self, sections: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which of some sections, (n,) integers, the ledger has."""
        bits = np.unpackbits(np.frombuffer(self.known or b"", np.uint8), bitorder="little")
        inside = sections < len(bits)
        inside[inside] = bits[sections[inside]] != 0
        return inside

    def note_known(self, sections: Collection[int]) -> None:
        """Note that the ledger has some sections."""
        self._set(sections, 1)

    def give_rows(self, rows: Mapping[int, ParticleRow]) -> None:
        """Add rows to those that are not in the ledger yet; of two for a section the newer counts."""
        if set(self.rows).issubset(rows):
            self.rows = rows or NO_ROWS
        else:
            self.rows = {**self.rows, **rows}

    def drop_known_rows(self) -> None:
        """Forget the rows that the ledger has."""
        if self.rows:
            known = self.are_known(np.array(list(self.rows), np.int64))
            # a new dictionary: one that was emptied keeps the memory that it had when it was full
            left = [section for section, is_known in zip(self.rows, known, strict=True) if not is_known]
            self.rows = {section: self.rows[section] for section in left} or NO_ROWS

    def take_back(self, rows: Collection[ParticleRow]) -> None:
        """Take rows that the ledger had and has no longer: they are examined anew."""
        self.give_rows({row.stack_index: row for row in rows})
        if self.known is not None:
            self._set([row.stack_index for row in rows], 0)

    def _set(self, sections: Collection[int], bit: int) -> None:
        bits = np.unpackbits(np.frombuffer(self.known or b"", np.uint8), bitorder="little")
        missing = max(sections, default=-1) + 1 - len(bits)
        bits = np.concatenate([bits, np.zeros(max(0, missing), np.uint8)])
        bits[list(sections)] = bit
        self.known = np.packbits(bits, bitorder="little").tobytes()

    def why_orphan(self) -> str:
        """Return which counterpart is missing."""
        if not self.settle.present:
            named = self.manifest_path if self.manifests else None
            return f"{self.path}: named by {named}, but there is no such stack (yet)"
        return f"{self.path}: no STAR or .cs file names it (yet)"


@dataclass(slots=True)
class Manifest(Tracked):
    """A STAR or .cs file that names ``stacks``; ``reread_at`` is set if its last row was left out as perhaps cut."""

    rows: int = 0
    stacks: tuple[str, ...] = ()
    reread_at: float | None = None

    def why_orphan(self) -> str:
        """Return what is amiss; a manifest needs no counterpart, so it only was away for long."""
        return f"{self.path}: not there any more"


class Reporter:
    """Tells ledger, log and metrics when a file's state changes."""

    def __init__(self, ledger: Ledger, metrics: IngestMetrics) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._counts: dict[type[Tracked], Counter[str]] = {Stack: Counter(), Manifest: Counter()}

    def update(self, file: Stack | Manifest, now: float) -> None:
        """Take the file's state of this time."""
        state = file.settle.state(now)
        if state is file.state:
            return
        self._count(file, state)
        reason = ""
        if state is FileState.ORPHAN:
            reason = file.why_orphan()
            _log.warning("file_is_orphan", name=file.name, reason=reason)
        elif state is FileState.QUARANTINED and file.settle.problem is not None:
            problem = file.settle.problem
            reason = problem.reason
            if self._ledger.quarantine(file.name, problem.kind, reason):
                self._metrics.quarantined(problem.kind)
            _log.warning("file_quarantined", name=file.name, kind=problem.kind, reason=reason)
        else:
            _log.debug("file_state", name=file.name, state=state.value)
        if state is FileState.READY:
            self._ledger.pardon(file.name)
        file.state = state
        record = FileRecord(file.name, state.value, reason=reason)
        if isinstance(file, Stack):
            self._ledger.put_stack(record)
        else:
            self._ledger.put_manifest(record)

    def forget(self, file: Stack | Manifest) -> None:
        """Drop a file that is gone and that nothing waits for."""
        self._count(file, None)
        self._ledger.forget_file(file.name)
        self._ledger.pardon(file.name)

    def set_aside(self, name: str, kind: str, reason: str) -> None:
        """Quarantine something that is not followed, such as a name that cannot be."""
        if self._ledger.quarantine(name, kind, reason):
            self._metrics.quarantined(kind)
            _log.warning("file_quarantined", name=name, kind=kind, reason=reason)

    def note_bad_rows(self, stack: Stack, bad: Iterable[tuple[str, str]]) -> None:
        """Count and log particles that were quarantined, each with (kind, reason)."""
        for kind, reason in bad:
            self._metrics.quarantined(kind)
            _log.warning("particle_quarantined", name=stack.name, kind=kind, reason=reason)

    def publish(self) -> None:
        """Set the gauges."""
        what: Literal["stack", "manifest"]
        for what, counter in (("stack", self._counts[Stack]), ("manifest", self._counts[Manifest])):
            for state in FILE_STATES:
                self._metrics.files(what, state, counter[state])
        self._metrics.orphans(sum(counter[FileState.ORPHAN.value] for counter in self._counts.values()))

    def _count(self, file: Stack | Manifest, state: FileState | None) -> None:
        counter = self._counts[type(file)]
        if file.state is not None:
            counter[file.state.value] -= 1
        if state is not None:
            counter[state.value] += 1


def ends_cleanly(path: Path) -> bool:
    """Return True unless the file is text that does not end with its line."""
    if path.suffix.lower() == ".cs":
        return True
    try:
        with open_regular(path) as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except (OSError, UnsupportedFormat):
        return False
