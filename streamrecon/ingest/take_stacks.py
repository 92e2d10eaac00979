"""Examining stacks that are finished, and putting their particles into the ledger, each once."""

from __future__ import annotations

import structlog

from streamrecon.errors import IngestError, StreamReconError
from streamrecon.ingest.copies import Copies
from streamrecon.ingest.examine import Examined, examine_stack, problem_of
from streamrecon.ingest.fingerprint import Fingerprint, fingerprint
from streamrecon.ingest.followed import Followed
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_schema import FileRecord
from streamrecon.ingest.metrics import IngestMetrics
from streamrecon.ingest.scan import Sighting, look_at
from streamrecon.ingest.settle import FileState, Problem
from streamrecon.ingest.tracked import CollectSettings, Reporter, Stack
from streamrecon.io import check_complete, probe_stack

_log = structlog.get_logger(__name__)


class StackTaker:
    """Examines stacks; what it finds goes into the ledger with `record`, many stacks in one transaction.

    Parameters
    ----------
    settings : CollectSettings
    followed : Followed
    ledger : Ledger
    metrics : IngestMetrics
    reporter : Reporter
    copies : Copies
    """

    def __init__(
        self,
        settings: CollectSettings,
        followed: Followed,
        ledger: Ledger,
        metrics: IngestMetrics,
        reporter: Reporter,
        copies: Copies,
    ) -> None:
        self._settings = settings
        self._followed = followed
        self._ledger = ledger
        self._metrics = metrics
        self._reporter = reporter
        self._copies = copies
        # what was examined and is not in the ledger yet
        self._examined: list[tuple[Stack, Examined, Sighting, Fingerprint]] = []

    def due(self, stack: Stack, now: float) -> bool:
        """Return True if a stack wants to be examined now."""
        if not stack.settle.referred:
            return stack.sought != self._followed.lost and stack.settle.still(now)
        takeable = stack.settle.state(now) is FileState.READY and any(index < stack.sections for index in stack.rows)
        return takeable or stack.settle.wants_probe(now)

    def examine(self, stack: Stack, now: float) -> None:
        """Examine a stack; whatever it holds, this does not raise."""
        path = stack.path
        sighting = look_at(path)
        if sighting is None:
            self._followed.note_gone(stack, now)
            return
        if stack.settle.observe(sighting.size, sighting.mtime_ns, now):
            self._followed.changed_at = now
            return
        if not stack.settle.referred:
            self._seek(stack, now)
            return
        if self._recall(stack, sighting):
            stack.settle.probed(None, now)
            return
        problem: Problem | None = None
        examined: Examined | None = None
        seen: Fingerprint | None = None
        sampling = self._ledger.sampling()
        try:
            probe = probe_stack(path)
            check_complete(probe)
            seen = fingerprint(path, probe.nz)
            rows = self._copies.unread(stack, seen)
            examined = examine_stack(
                path, probe, rows, stack.manifest_path, sampling, require_ctf=self._settings.require_ctf
            )
        except StreamReconError as error:
            problem = problem_of(error)
        except Exception as error:  # as for manifests
            _log.exception("stack_reader_failed", name=stack.name)
            problem = Problem("ingest_error", f"{path}: the reader failed on it with {error!r}", False)
        after = look_at(path)
        if after != sighting:
            # It changed under our eyes: what was found says nothing.
            self._followed.observe(stack.name, after, now)
            return
        if examined is None or seen is None:
            if problem is not None and problem != stack.settle.problem:
                _log.info("stack_not_usable", name=stack.name, kind=problem.kind, reason=problem.reason)
            stack.settle.probed(problem, now)
            return
        self._examined.append((stack, examined, sighting, seen))
        if sampling is None:
            # the first stack of a session decides what the next is held against
            self.record(now)

    def _recall(self, stack: Stack, sighting: Sighting) -> bool:
        """Take a stack for what an earlier run saw in it; return whether there is nothing in it to be examined.

        Size and time of change tell, as they do while ingest runs: a restart does not read a session's pixels again.
        """
        if stack.sections:
            return False  # examined in this run
        stack.sections = self._ledger.sections_as_read(stack.name, sighting.size, sighting.mtime_ns)
        return stack.sections > 0 and all(index >= stack.sections for index in stack.rows)

    def record(self, now: float) -> None:
        """Put what was examined into the ledger."""
        if not self._examined:
            return
        with self._ledger.transaction():
            for taken in self._examined:
                self._take_stack(*taken)
        for stack, *_ in self._examined:
            stack.settle.probed(None, now)
        self._examined.clear()
        self._followed.changed_at = now

    def _take_stack(self, stack: Stack, examined: Examined, sighting: Sighting, seen: Fingerprint) -> None:
        with self._ledger.transaction():
            before = self._ledger.stack_signature(stack.name)
            same = self._copies.settle(stack, seen)
            if same and before is not None and before != (sighting.size, sighting.mtime_ns):
                self._copies.look_again(stack)
            # of what it held before nothing is known any more: all its rows come again
            ready = self._copies.add(stack, examined.rows, examined.images, examined.bad) if same else 0
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
        if same:
            stack.note_known(examined.rows)
        stack.drop_known_rows()
        if ready:
            self._metrics.stack_ready(ready)
            _log.info("stack_ready", name=stack.name, particles=ready)
        if same:
            self._reporter.note_bad_rows(stack, examined.bad.values())

    def _seek(self, stack: Stack, now: float) -> None:
        """Ask whether a stack that no manifest names holds the images of one that was lost, and that are to be read."""
        stack.sought = self._followed.lost
        try:
            probe = probe_stack(stack.path)
            check_complete(probe)
            seen = fingerprint(stack.path, probe.nz)
        except IngestError:
            return  # what is wrong with it is said once a manifest names it
        if self._copies.find(stack.path, seen) is None:
            return
        with self._ledger.transaction():
            self._copies.settle(stack, seen)
            self._ledger.doubt(stack.name)  # until it is examined, what the ledger says of it is half old, half new
        stack.settle.refer(now)
        self._followed.changed_at = now

    def give_up_rows(self, stack: Stack, now: float) -> None:
        """Set aside the rows past a stack's end once it has stood still for too long to grow any more."""
        beyond = {i: row for i, row in stack.rows.items() if i >= stack.sections}
        waited = min(stack.settle.unchanged_seconds(now), now - stack.rows_at)
        if not beyond or waited < self._settings.orphan_seconds:
            return
        bad = {
            i: (
                "manifest_mismatch",
                f"{stack.manifest_path}: names image {i + 1} of {stack.path}, expected at most {stack.sections} as "
                "that stack has; write the one or the other anew",
            )
            for i in sorted(beyond)
        }
        self._copies.add(stack, beyond, {}, bad)
        stack.note_known(beyond)
        stack.drop_known_rows()
        self._reporter.note_bad_rows(stack, bad.values())
