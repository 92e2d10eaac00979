"""Which files of the watched folder are followed, and what each look at one of them changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import structlog

from streamrecon.ingest.scan import Scan, Sighting, Wanted, look_at
from streamrecon.ingest.settle import FileSettle, SettleTimes
from streamrecon.ingest.tracked import CollectSettings, Manifest, Reporter, Stack
from streamrecon.transport.table_wire import ParticleRow

_log = structlog.get_logger(__name__)


class Followed:
    """Every stack and manifest that was seen or named.

    Names are relative to the watched root, as in the ledger.

    Parameters
    ----------
    wanted : Wanted
        With an absolute root.
    settings : CollectSettings
    reporter : Reporter

    Attributes
    ----------
    stacks : dict of str to Stack
    manifests : dict of str to Manifest
    open_stacks : dict of str to Stack
        Those whose state may change without anybody touching them.
    unread : dict of str to Manifest
        The same of manifests.
    missing : dict of str to set of str
        Stacks that manifests name and that are not there, by their own name without a folder.
    lost : int
        How many times a stack whose images are known was not there any more, or held others.
    changed_at : float
        Monotonic time at which something last changed; infinite while nothing was seen: that is waiting, not idle.
    """

    def __init__(self, wanted: Wanted, settings: CollectSettings, reporter: Reporter) -> None:
        self._wanted = wanted
        self._reporter = reporter
        retry = max(1.0, settings.settle_seconds)
        self._times = SettleTimes(settings.settle_seconds, settings.orphan_seconds, retry)
        self._manifest_times = replace(self._times, impatient_seconds=settings.patience_seconds)
        self.stacks: dict[str, Stack] = {}
        self.manifests: dict[str, Manifest] = {}
        self.unread: dict[str, Manifest] = {}
        self.open_stacks: dict[str, Stack] = {}
        self.missing: defaultdict[str, set[str]] = defaultdict(set)
        self.changed_at = float("inf")
        self.lost = 0
        self._walks = 0

    def take_scan(self, scan: Scan, now: float) -> None:
        """Take a look at everything: files that it does not find are gone."""
        self._walks = walk = self._walks + 1
        stacks, manifests = self.stacks, self.manifests
        for name, sighting in scan:
            # of most files nothing has changed: what is done here is what a scan costs
            file = stacks.get(name) or manifests.get(name)
            if file is None or not file.settle.is_as(sighting[0], sighting[1]):
                self.observe(name, sighting, now)
                file = stacks.get(name) or manifests.get(name)
            if file is not None:
                file.walk = walk
        for file in [f for files in (stacks, manifests) for f in files.values() if f.walk != walk]:
            # A link that leads to a folder scanned under another name is not in the scan, but there.
            self.observe(file.name, look_at(file.path), now)

    def observe(self, name: str, sighting: Sighting | None, now: float) -> None:
        """Take one look at a file; None: it is not there."""
        file = self.stacks.get(name) or self.manifests.get(name)
        if file is None:
            if sighting is None:
                return
            if self._wanted.is_manifest(name):
                file = Manifest(self._wanted.root, name, FileSettle(self._manifest_times, now))
                file.settle.refer(now)
                self.manifests[name] = file
            else:
                # Manifests that wait for a stack of this name may mean this one.
                for missing in self.missing.pop(_own_name(name), ()):
                    if (waiting := self.stacks.get(missing)) is not None:
                        self.read_again(waiting)
                # An .mrc that no manifest names may be a micrograph or a map: none of our business.
                if name.lower().endswith(".mrc"):
                    return
                file = self.add_stack(name, now)
        if sighting is None:
            self.note_gone(file, now)
            return
        if isinstance(file, Stack) and not file.settle.present:
            self.note_found(file)
        if file.settle.observe(sighting.size, sighting.mtime_ns, now):
            self.changed_at = now
            if isinstance(file, Stack):
                self.open_stacks[name] = file
            else:
                self.unread[name] = file

    def note_gone(self, file: Stack | Manifest, now: float) -> None:
        """Note that a file is not there (any more)."""
        if file.settle.vanish(now):
            self.changed_at = now
            self.lost += isinstance(file, Stack) and file.sections > 0
            _log.info("file_vanished", name=file.name)
        if isinstance(file, Manifest):
            # What it said stays true: its particles are waited for all the same.
            del self.manifests[file.name]
            self.unread.pop(file.name, None)
            self._reporter.forget(file)
        elif not file.manifests:
            self.drop_stack(file)
        else:
            self.open_stacks[file.name] = file

    def add_stack(self, name: str, now: float) -> Stack:
        """Follow a stack, there or not."""
        stack = Stack(self._wanted.root, name, FileSettle(self._times, now))
        self.stacks[name] = self.open_stacks[name] = stack
        return stack

    def drop_stack(self, stack: Stack) -> None:
        """Follow a stack no longer: it is gone, and nothing waits for it."""
        del self.stacks[stack.name]
        self.open_stacks.pop(stack.name, None)
        self.note_found(stack)
        self._reporter.forget(stack)

    def note_missing(self, stack: Stack) -> None:
        """Note that a manifest names a stack which is not there."""
        self.missing[_own_name(stack.name)].add(stack.name)

    def note_found(self, stack: Stack) -> None:
        """Note that a stack is there, or that no manifest names it any more."""
        own_name = _own_name(stack.name)
        if own_name in self.missing:
            self.missing[own_name].discard(stack.name)
            if not self.missing[own_name]:
                del self.missing[own_name]

    def read_again(self, stack: Stack) -> None:
        """Have the manifests that name a stack read again."""
        for name in stack.manifests:
            if (manifest := self.manifests.get(name)) is not None:
                manifest.settle.recheck()
                self.unread[name] = manifest

    def start_over(self, stack: Stack) -> None:
        """Forget which particles a stack's are: it is another than it was, and its manifests are read again."""
        stack.known = None
        stack.settle.recheck()
        self.open_stacks[stack.name] = stack
        self.read_again(stack)

    def take_back(self, rows: Iterable[ParticleRow]) -> None:
        """Hand rows that the ledger has no longer back to the stacks they place particles in, if those are followed."""
        rows_of: defaultdict[str, list[ParticleRow]] = defaultdict(list)
        for row in rows:
            rows_of[row.stack_name].append(row)
        for name, rows in rows_of.items():
            if (stack := self.stacks.get(name)) is not None:
                stack.take_back(rows)
                self.open_stacks[name] = stack


def _own_name(name: str) -> str:
    return name[name.rfind("/") + 1 :]
