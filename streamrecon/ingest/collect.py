"""Joining manifests with stacks: what is complete and named by a row goes into the ledger, once.

One bad file never stops the loop: whatever it raises ends in quarantine, with the reason, or waits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog

from streamrecon.errors import StreamReconError
from streamrecon.ingest.examine import Examined, examine_stack, problem_of
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_schema import FileRecord
from streamrecon.ingest.metrics import IngestMetrics
from streamrecon.ingest.scan import Scan, Sighting, Wanted, look_at
from streamrecon.ingest.settle import FileSettle, FileState, Problem, SettleTimes
from streamrecon.ingest.tracked import CollectSettings, Manifest, Reporter, Stack, ends_cleanly, printable_row
from streamrecon.io import read_manifest
from streamrecon.particles import ParticleTable
from streamrecon.transport.table_wire import ParticleRow, table_to_rows

_log = structlog.get_logger(__name__)


class Collector:
    """Follows every stack and manifest of one watched folder.

    Parameters
    ----------
    wanted : Wanted
        With an absolute root.
    settings : CollectSettings
    ledger : Ledger
    metrics : IngestMetrics

    Notes
    -----
    Feed it what is seen (`take_scan`, `take_changes`) and call `step`; ``now`` is monotonic time. Nothing but
    the ledger outlives the process: after a restart all manifests are read again, and the ledger knows which
    particles it has.
    """

    def __init__(self, wanted: Wanted, settings: CollectSettings, ledger: Ledger, metrics: IngestMetrics) -> None:
        self._wanted = wanted
        self._root = wanted.root
        self._settings = settings
        self._ledger = ledger
        self._metrics = metrics
        self._reporter = Reporter(ledger, metrics)
        retry = max(1.0, settings.settle_seconds)
        self._times = SettleTimes(settings.settle_seconds, settings.orphan_seconds, retry)
        self._manifest_times = replace(self._times, impatient_seconds=settings.patience_seconds)
        self._stacks: dict[Path, Stack] = {}
        self._manifests: dict[Path, Manifest] = {}
        self._unread: dict[Path, Manifest] = {}
        self._open: dict[Path, Stack] = {}  # those whose state may change without anybody touching them
        self._missing: defaultdict[str, set[Path]] = defaultdict(set)  # stack's file name -> manifests
        self._complained: set[str] = set()
        # what a step has found and not yet put into the ledger
        self._examined: list[tuple[Stack, Examined, Sighting]] = []
        self._read_records: dict[str, FileRecord] = {}
        # nothing seen yet is waiting, not idle
        self.changed_at = float("inf")

    # What is seen

    def take_scan(self, scan: Scan, now: float) -> None:
        """Take a complete look; files that are not in it are gone, unless the root is."""
        if not scan.root_present:
            return
        for path, sighting in scan.files.items():
            self._observe(path, sighting, now)
        for path in [p for p in (*self._stacks, *self._manifests) if p not in scan.files]:
            # A link that leads to a folder scanned under another name is not in the scan, but there.
            self._observe(path, look_at(path), now)
        for name in scan.unnameable:
            reason = f"{name}: expected a UTF-8 name, found this; rename it"
            self._reporter.set_aside(name, "unsupported_format", reason)
        for reason in scan.unreadable:
            if reason not in self._complained:
                self._complained.add(reason)
                _log.warning("folder_unreadable", reason=reason)

    def take_changes(self, paths: Iterable[Path], now: float) -> None:
        """Look again at paths that are said to have changed."""
        for path in paths:
            try:
                str(path).encode()
            except UnicodeEncodeError:
                continue  # the next scan sets it aside
            self._observe(path, look_at(path), now)

    def _observe(self, path: Path, sighting: Sighting | None, now: float) -> None:
        file = self._stacks.get(path) or self._manifests.get(path)
        if file is None:
            if sighting is None:
                return
            if self._wanted.is_manifest(path):
                file = Manifest(path, self._name(path), FileSettle(self._manifest_times, now))
                file.settle.refer(now)
                self._manifests[path] = file
            else:
                # Manifests that wait for a stack of this name may mean this one.
                for manifest in self._missing.pop(path.name, ()):
                    if (waiting := self._manifests.get(manifest)) is not None:
                        waiting.settle.recheck()
                        self._unread[manifest] = waiting
                # An .mrc that no manifest names may be a micrograph or a map: none of our business.
                if path.suffix.lower() == ".mrc":
                    return
                file = self._add_stack(path, now)
        if sighting is None:
            self._note_gone(file, now)
        elif file.settle.observe(sighting.size, sighting.mtime_ns, now):
            self.changed_at = now
            if isinstance(file, Stack):
                self._open[path] = file
            else:
                self._unread[path] = file

    def _note_gone(self, file: Stack | Manifest, now: float) -> None:
        if file.settle.vanish(now):
            self.changed_at = now
            _log.info("file_vanished", name=file.name)
        if isinstance(file, Manifest):
            # What it said stays true: its particles are waited for all the same.
            del self._manifests[file.path]
            self._unread.pop(file.path, None)
            self._reporter.forget(file)
        elif not file.manifests:
            self._drop_stack(file)
        else:
            self._open[file.path] = file

    def _add_stack(self, path: Path, now: float) -> Stack:
        stack = Stack(path, self._name(path), FileSettle(self._times, now))
        self._stacks[path] = self._open[path] = stack
        return stack

    def _drop_stack(self, stack: Stack) -> None:
        del self._stacks[stack.path]
        self._open.pop(stack.path, None)
        self._reporter.forget(stack)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def retry(self, name: str, identity: str, now: float) -> None:
        """Look again at a file (identity "": all of it) or at a particle; at one not followed yet, once it is."""
        path = self._root / name
        stack, manifest = self._stacks.get(path), self._manifests.get(path)
        file = stack or manifest
        with self._ledger.transaction():
            rows = self._ledger.release(name, identity)
            if file is None:
                return
            file.settle.recheck()
            self._reporter.update(file, now)
        if stack is not None:
            stack.rows |= {row.stack_index: row for row in rows}
            self._open[path] = stack
        if manifest is not None:
            self._unread[path] = manifest
        self.changed_at = now

    # What is done about it

    def step(self, now: float, budget_seconds: float = 0.5) -> bool:
        """Read what wants to be read; return True if the time budget ended first.

        What was found goes into the ledger at the end, in one transaction: on a disk, each costs a sync, and a session
        of ten thousand stacks would wait for twenty thousand of them.
        """
        busy = self._look(now, time.monotonic() + budget_seconds)
        self._take_examined(now)
        with self._ledger.transaction():
            for record in self._read_records.values():
                self._ledger.put_manifest(record)
            if not busy:
                self._report(now)
        self._read_records.clear()
        if not busy:
            self._reporter.publish()
        return busy

    def _look(self, now: float, end: float) -> bool:
        # Stacks first: the rows of a manifest stay in memory until its stacks are examined.
        for stack in list(self._open.values()):
            if self._wants_examination(stack, now):
                self._examine(stack, now)
                if time.monotonic() > end:
                    return True
        for manifest in list(self._unread.values()):
            if manifest.reread_at is not None and now >= manifest.reread_at:
                manifest.settle.recheck()
            if manifest.settle.wants_probe(now):
                self._read(manifest, now)
                if time.monotonic() > end:
                    return True
        return False

    def _report(self, now: float) -> None:
        for manifest in list(self._unread.values()):
            self._reporter.update(manifest, now)
            if manifest.state is FileState.READY and manifest.reread_at is None:
                del self._unread[manifest.path]
        for stack in list(self._open.values()):
            self._reporter.update(stack, now)
            if stack.state is FileState.READY:
                self._give_up_rows(stack, now)
                if not stack.rows:
                    del self._open[stack.path]

    def _read(self, manifest: Manifest, now: float) -> None:
        path, settle = manifest.path, manifest.settle
        sighting = look_at(path)
        if sighting is None:
            self._note_gone(manifest, now)
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
            self._take_rows(manifest, table, now)
        settle.probed(problem, now)
        if after is not None:
            settle.observe(after.size, after.mtime_ns, now)

    def _take_rows(self, manifest: Manifest, table: ParticleTable, now: float) -> None:
        manifest.rows = len(table)
        named: set[Path] = set()
        order = np.argsort(table.stack_number, kind="stable")
        numbers, starts = np.unique(table.stack_number[order], return_index=True)
        for number, rows in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
            name = table.stack_names[number]
            printable = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            if printable != name:
                reason = f"{manifest.path}: names {printable}, expected a UTF-8 name; rename the stack"
                self._reporter.set_aside(printable, "unsupported_format", reason)
                continue
            named.add(Path(name))
            self._refer(manifest, Path(name), table.select(rows), now)
        for path in manifest.stacks - named:
            self._unrefer(manifest, path)
        manifest.stacks = named
        size, mtime_ns = manifest.settle.signature or (None, None)
        record = FileRecord(manifest.name, FileState.READY.value, size, mtime_ns, manifest.rows)
        self._read_records[manifest.name] = record

    def _refer(self, manifest: Manifest, path: Path, table: ParticleTable, now: float) -> None:
        stack = self._stacks.get(path) or self._add_stack(path, now)
        stack.settle.refer(now)
        stack.manifests.add(manifest.path)
        if stack.settle.signature is None:
            sighting = look_at(path)
            if sighting is None:
                self._missing[path.name].add(manifest.path)
            else:
                stack.settle.observe(sighting.size, sighting.mtime_ns, now)
        if stack.known is None:
            stack.known = bytearray()
            for index in self._ledger.known_sections(stack.name):
                stack.note_known(index)
        fresh = np.array([not stack.is_known(i) for i in table.stack_index.tolist()], np.bool_)
        rows = {row.stack_index: row for row in table_to_rows(table.select(fresh))}
        if not rows.keys() <= stack.rows.keys():
            stack.rows_at = self.changed_at = now
        stack.rows |= {i: printable_row(row, stack.name) for i, row in rows.items()}
        if stack.rows:
            self._open[path] = stack
        problem = stack.settle.problem
        if problem is not None and problem.kind == "manifest_mismatch":
            stack.settle.recheck()
            self._open[path] = stack

    def _unrefer(self, manifest: Manifest, path: Path) -> None:
        """A name was resolved to another place: forget the stack that it was first taken for."""
        stack = self._stacks.get(path)
        if stack is not None:
            stack.manifests.discard(manifest.path)
            if not stack.manifests and stack.settle.signature is None:
                self._drop_stack(stack)

    def _wants_examination(self, stack: Stack, now: float) -> bool:
        takeable = stack.settle.state(now) is FileState.READY and any(index < stack.sections for index in stack.rows)
        return takeable or stack.settle.wants_probe(now)

    def _examine(self, stack: Stack, now: float) -> None:
        sighting = look_at(stack.path)
        if sighting is None:
            self._note_gone(stack, now)
            return
        if stack.settle.observe(sighting.size, sighting.mtime_ns, now):
            self.changed_at = now
            return
        problem: Problem | None = None
        examined: Examined | None = None
        manifest = min(stack.manifests, default=stack.path)
        sampling = self._ledger.sampling()
        try:
            examined = examine_stack(stack.path, stack.rows, manifest, sampling, require_ctf=self._settings.require_ctf)
        except StreamReconError as error:
            problem = problem_of(error)
        except Exception as error:  # as for manifests
            _log.exception("stack_reader_failed", name=stack.name)
            problem = Problem("ingest_error", f"{stack.path}: the reader failed on it with {error!r}", False)
        after = look_at(stack.path)
        if after != sighting:
            # It changed under our eyes: what was found says nothing.
            self._observe(stack.path, after, now)
            return
        if examined is None:
            if problem is not None and problem != stack.settle.problem:
                _log.info("stack_not_usable", name=stack.name, kind=problem.kind, reason=problem.reason)
            stack.settle.probed(problem, now)
            return
        self._examined.append((stack, examined, sighting))
        if sampling is None:
            # the first stack of a session decides what the next is held against
            self._take_examined(now)

    def _take_examined(self, now: float) -> None:
        """Put what was examined into the ledger."""
        if not self._examined:
            return
        with self._ledger.transaction():
            for stack, examined, sighting in self._examined:
                self._take_stack(stack, examined, sighting)
        for stack, _, _ in self._examined:
            stack.settle.probed(None, now)
        self._examined.clear()
        self.changed_at = now

    def _take_stack(self, stack: Stack, examined: Examined, sighting: Sighting) -> None:
        released: list[ParticleRow] = []
        with self._ledger.transaction():
            before = self._ledger.stack_signature(stack.name)
            if before is not None and before != (sighting.size, sighting.mtime_ns):
                released = self._ledger.release(stack.name)
            ready = self._ledger.add_particles(
                {row.identity: row for row in examined.rows.values()},
                {examined.rows[i].identity: why for i, why in examined.bad.items()},
            )
            self._ledger.put_stack(
                FileRecord(
                    stack.name,
                    FileState.READY.value,
                    sighting.size,
                    sighting.mtime_ns,
                    examined.probe.nz,
                    examined.probe.nx,
                )
            )
            if examined.sampling is not None:
                self._ledger.put_sampling(examined.sampling)
        stack.sections = examined.probe.nz
        for index in examined.rows:
            del stack.rows[index]
            stack.note_known(index)
        for row in released:
            # They are looked at again, now that the stack has changed.
            if row.stack_index not in examined.rows:
                stack.rows[row.stack_index] = row
        if ready:
            self._metrics.stack_ready(ready)
            _log.info("stack_ready", name=stack.name, particles=ready)
        self._reporter.note_bad_rows(stack, examined.bad.values())

    def _give_up_rows(self, stack: Stack, now: float) -> None:
        """Set aside the rows past a stack's end once it has stood still for too long to grow any more."""
        beyond = {i: row for i, row in stack.rows.items() if i >= stack.sections}
        waited = min(stack.settle.unchanged_seconds(now), now - stack.rows_at)
        if not beyond or waited < self._settings.orphan_seconds:
            return
        manifest = min(stack.manifests, default=stack.path)
        bad = {
            row.identity: (
                "manifest_mismatch",
                f"{manifest}: names image {i + 1} of {stack.path}, expected at most {stack.sections} as that "
                "stack has; write the one or the other anew",
            )
            for i, row in sorted(beyond.items())
        }
        self._ledger.add_particles({row.identity: row for row in beyond.values()}, bad)
        for index in beyond:
            del stack.rows[index]
            stack.note_known(index)
        self._reporter.note_bad_rows(stack, bad.values())
