"""Reading manifests: which particles they name, and which stacks wait to be examined for them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import structlog

from streamrecon.errors import StreamReconError
from streamrecon.ingest.copies import Copies
from streamrecon.ingest.examine import problem_of
from streamrecon.ingest.followed import Followed
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_schema import FileRecord
from streamrecon.ingest.scan import look_at
from streamrecon.ingest.settle import FileState, Problem
from streamrecon.ingest.tracked import CollectSettings, Manifest, Reporter, ends_cleanly
from streamrecon.ingest.waiting_rows import WaitingRows
from streamrecon.io import read_manifest
from streamrecon.particles import ParticleTable

_log = structlog.get_logger(__name__)


class ManifestReader:
    """Reads manifests that are due and hands their rows to the stacks they name.

    Parameters
    ----------
    root : Path
        Absolute.
    settings : CollectSettings
    followed : Followed
    ledger : Ledger
    reporter : Reporter
    copies : Copies
    """

    def __init__(
        self,
        root: Path,
        settings: CollectSettings,
        followed: Followed,
        ledger: Ledger,
        reporter: Reporter,
        copies: Copies,
    ) -> None:
        self._root = root
        self._settings = settings
        self._followed = followed
        self._ledger = ledger
        self._reporter = reporter
        self._copies = copies
        # what was read and is not in the ledger yet
        self._records: dict[str, FileRecord] = {}
        # size and time of change of those that an earlier run read, and this one has not
        self._before = {r.name: (r.size or 0, r.mtime_ns or 0) for r in ledger.manifests() if r.size is not None}

    def in_order(self) -> list[Manifest]:
        """Return the manifests that wait; last those that an earlier run read, of them first the latest.

        After a restart what is new does not wait until all that is known has been read again.
        """
        waiting = list(self._followed.unread.values())
        known = [manifest for manifest in waiting if self._was_read_before(manifest)]
        if not known:
            return waiting
        known.sort(key=lambda manifest: self._before[manifest.name][1], reverse=True)
        return [manifest for manifest in waiting if not self._was_read_before(manifest)] + known

    def _was_read_before(self, manifest: Manifest) -> bool:
        """Whether an earlier run read it as it is, and this one has not."""
        return manifest.name in self._before and self._before[manifest.name] == manifest.settle.signature

    def due(self, manifest: Manifest, now: float) -> bool:
        """Return True if a manifest wants to be read now."""
        if manifest.reread_at is not None and now >= manifest.reread_at:
            manifest.settle.recheck()
        return manifest.settle.wants_probe(now)

    def read(self, manifest: Manifest, now: float) -> None:
        """Read a manifest; whatever it holds, this does not raise."""
        is_old = self._was_read_before(manifest)
        self._before.pop(manifest.name, None)
        path, settle = manifest.path, manifest.settle
        sighting = look_at(path)
        if sighting is None:
            self._followed.note_gone(manifest, now)
            return
        settle.observe(sighting.size, sighting.mtime_ns, now)
        if not settle.wants_probe(now):
            return
        problem: Problem | None = None
        table: ParticleTable | None = None
        if sighting.is_regular:
            try:
                table = read_manifest(path, self._root)
            except StreamReconError as error:
                problem = problem_of(error)
            except Exception as error:  # whatever a file makes a parser do, the next file is read
                _log.exception("manifest_reader_failed", name=manifest.name)
                problem = Problem("ingest_error", f"{path}: the reader failed on it with {error!r}", False)
        else:
            reason = f"{path}: expected a STAR or .cs file, found a folder or a device; rename it"
            problem = Problem("unsupported_format", reason, False)
        if problem is not None:
            _log.info("manifest_not_usable", name=manifest.name, kind=problem.kind, reason=problem.reason)
        clean = ends_cleanly(path) or settle.unchanged_seconds(now) >= self._settings.patience_seconds
        after = look_at(path)
        manifest.reread_at = None
        if table is not None:
            # The last row may be cut within its last number, which no parser can see.
            if not (clean and after == sighting and settle.still(now)):
                table = table.select(slice(0, -1))
                manifest.reread_at = now + self._settings.patience_seconds
            self._take_rows(manifest, table, now, is_old=is_old)
        settle.probed(problem, now)
        if after is not None:
            settle.observe(after.size, after.mtime_ns, now)

    def record(self) -> None:
        """Put what was read into the ledger, in the caller's transaction."""
        for record in self._records.values():
            self._ledger.put_manifest(record)
        self._records.clear()

    def _take_rows(self, manifest: Manifest, table: ParticleTable, now: float, *, is_old: bool) -> None:
        manifest.rows = len(table)
        named: set[str] = set()
        order = np.argsort(table.stack_number, kind="stable")
        numbers, starts = np.unique(table.stack_number[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
            name = table.stack_names[number]
            printable = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            if printable != name:
                reason = f"{manifest.path}: names {printable}, expected a UTF-8 name; rename the stack"
                self._reporter.set_aside(printable, "unsupported_format", reason)
                continue
            # `read_manifest` lets no name lead out of the root
            name = os.path.relpath(name, self._root)
            named.add(self._refer(manifest, name, table.select(rows), now, is_old=is_old))
        for gone in set(manifest.stacks) - named:
            self._unrefer(manifest, gone)
        manifest.stacks = tuple(named)
        size, mtime_ns = manifest.settle.signature or (None, None)
        record = FileRecord(manifest.name, FileState.READY.value, size, mtime_ns, manifest.rows)
        self._records[manifest.name] = record

    def _refer(self, manifest: Manifest, name: str, table: ParticleTable, now: float, *, is_old: bool) -> str:
        """Hand a stack the rows that place particles in it; return its name, the one object that all share.

        Rows of an old manifest do not take the place of others: those were read first, and are newer.
        """
        stack = self._followed.stacks.get(name) or self._followed.add_stack(name, now)
        stack.settle.refer(now)
        if manifest.name not in stack.manifests:
            stack.manifests = (*stack.manifests, manifest.name)
        if not stack.settle.present:
            sighting = look_at(stack.path)
            if sighting is None:
                self._followed.note_missing(stack)
            else:
                self._followed.note_found(stack)
                stack.settle.observe(sighting.size, sighting.mtime_ns, now)
        if stack.known is None:
            self._copies.recall(stack)
        wanted = ~stack.are_known(table.stack_index)
        if is_old and stack.rows:
            wanted &= ~np.isin(table.stack_index, list(stack.rows))
        rows = WaitingRows(table.select(wanted), stack.name)
        if not set(rows).issubset(stack.rows):
            stack.rows_at = self._followed.changed_at = now
        stack.give_rows(rows)
        if stack.rows:
            self._followed.open_stacks[stack.name] = stack
        problem = stack.settle.problem
        if problem is not None and problem.kind == "manifest_mismatch":
            stack.settle.recheck()
            self._followed.open_stacks[stack.name] = stack
        return stack.name

    def _unrefer(self, manifest: Manifest, name: str) -> None:
        """A name was resolved to another place: forget the stack that it was first taken for."""
        stack = self._followed.stacks.get(name)
        if stack is not None:
            stack.manifests = tuple(n for n in stack.manifests if n != manifest.name)
            if not stack.manifests and not stack.settle.present:
                self._followed.drop_stack(stack)
