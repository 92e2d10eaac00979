"""Which files of the watched folder are followed, and what each look at one of them changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from streamrecon.ingest.scan import Sighting, Wanted
from streamrecon.ingest.settle import FileSettle, SettleTimes
from streamrecon.ingest.tracked import CollectSettings, Manifest, Reporter, Stack
from streamrecon.transport.table_wire import ParticleRow

_log = structlog.get_logger(__name__)


class Followed:
    """Every stack and manifest that was seen or named.

    Parameters
    ----------
    wanted : Wanted
        With an absolute root.
    settings : CollectSettings
    reporter : Reporter

    Attributes
    ----------
    stacks : dict of Path to Stack
    manifests : dict of Path to Manifest
    open_stacks : dict of Path to Stack
        Those whose state may change without anybody touching them.
    unread : dict of Path to Manifest
        The same of manifests.
    missing : dict of str to set of Path
        Manifests that wait for a stack of that file name.
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
        self.stacks: dict[Path, Stack] = {}
        self.manifests: dict[Path, Manifest] = {}
        self.unread: dict[Path, Manifest] = {}
        self.open_stacks: dict[Path, Stack] = {}
        self.missing: defaultdict[str, set[Path]] = defaultdict(set)
        self.changed_at = float("inf")
        self.lost = 0

    def observe(self, path: Path, sighting: Sighting | None, now: float) -> None:
        """Take one look at a path; None: it is not there."""
        file = self.stacks.get(path) or self.manifests.get(path)
        if file is None:
            if sighting is None:
                return
            if self._wanted.is_manifest(path):
                file = Manifest(path, self.name_of(path), FileSettle(self._manifest_times, now))
                file.settle.refer(now)
                self.manifests[path] = file
            else:
                # Manifests that wait for a stack of this name may mean this one.
                for manifest in self.missing.pop(path.name, ()):
                    if (waiting := self.manifests.get(manifest)) is not None:
                        waiting.settle.recheck()
                        self.unread[manifest] = waiting
                # An .mrc that no manifest names may be a micrograph or a map: none of our business.
                if path.suffix.lower() == ".mrc":
                    return
                file = self.add_stack(path, now)
        if sighting is None:
            self.note_gone(file, now)
        elif file.settle.observe(sighting.size, sighting.mtime_ns, now):
            self.changed_at = now
            if isinstance(file, Stack):
                self.open_stacks[path] = file
            else:
                self.unread[path] = file

    def note_gone(self, file: Stack | Manifest, now: float) -> None:
        """Note that a file is not there (any more)."""
        if file.settle.vanish(now):
            self.changed_at = now
            self.lost += isinstance(file, Stack) and file.sections > 0
            _log.info("file_vanished", name=file.name)
        if isinstance(file, Manifest):
            # What it said stays true: its particles are waited for all the same.
            del self.manifests[file.path]
            self.unread.pop(file.path, None)
            self._reporter.forget(file)
        elif not file.manifests:
            self.drop_stack(file)
        else:
            self.open_stacks[file.path] = file

    def add_stack(self, path: Path, now: float) -> Stack:
        """Follow a stack, there or not."""
        stack = Stack(path, self.name_of(path), FileSettle(self._times, now))
        self.stacks[path] = self.open_stacks[path] = stack
        return stack

    def drop_stack(self, stack: Stack) -> None:
        """Follow a stack no longer: it is gone, and nothing waits for it."""
        del self.stacks[stack.path]
        self.open_stacks.pop(stack.path, None)
        self._reporter.forget(stack)

    def start_over(self, stack: Stack) -> None:
        """Forget which particles a stack's are: it is another than it was, and its manifests are read again."""
        stack.known = None
        stack.settle.recheck()
        self.open_stacks[stack.path] = stack
        for path in stack.manifests:
            if (manifest := self.manifests.get(path)) is not None:
                manifest.settle.recheck()
                self.unread[path] = manifest

    def take_back(self, rows: Iterable[ParticleRow]) -> None:
        """Hand rows that the ledger has no longer back to the stacks they place particles in, if those are followed."""
        for row in rows:
            stack = self.stacks.get(self._wanted.root / row.stack_name)
            if stack is not None:
                stack.take_back([row])
                self.open_stacks[stack.path] = stack

    def name_of(self, path: Path) -> str:
        """Return what the ledger calls a file."""
        return path.relative_to(self._wanted.root).as_posix()
