"""Joining manifests with stacks: what is complete and named by a row goes into the ledger, once.

One bad file never stops the loop: whatever it raises ends in quarantine, with the reason, or waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from streamrecon.ingest.copies import Copies
from streamrecon.ingest.followed import Followed
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.metrics import IngestMetrics
from streamrecon.ingest.read_manifests import ManifestReader
from streamrecon.ingest.scan import Scan, Wanted, look_at
from streamrecon.ingest.settle import FileState
from streamrecon.ingest.take_stacks import StackTaker
from streamrecon.ingest.tracked import CollectSettings, Reporter, Stack

_log = structlog.get_logger(__name__)
# No worker is served meanwhile: what it was given ahead must last. A commit's sync is little beside it.
_STEP_SECONDS = 0.1


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
        self._root = wanted.root
        self._ledger = ledger
        self._reporter = Reporter(ledger, metrics)
        self._followed = Followed(wanted, settings, self._reporter)
        copies = self._copies = Copies(wanted.root, self._followed, ledger, metrics)
        self._manifests = ManifestReader(wanted.root, settings, self._followed, ledger, self._reporter, copies)
        self._stacks = StackTaker(settings, self._followed, ledger, metrics, self._reporter, copies)
        self._complained: set[str] = set()

    @property
    def changed_at(self) -> float:
        """Return the monotonic time at which something last changed; infinite while nothing was seen."""
        return self._followed.changed_at

    # What is seen

    def take_scan(self, scan: Scan, now: float) -> None:
        """Take a complete look; files that are not in it are gone, unless the root is."""
        if not scan.root_present:
            return
        self._followed.take_scan(scan, now)
        self._copies.seek_missing()
        for name in scan.unnameable:
            reason = f"{name}: expected a UTF-8 name, found this; rename it"
            self._reporter.set_aside(name, "unsupported_format", reason)
        for reason in scan.unreadable:
            if reason not in self._complained:
                self._complained.add(reason)
                _log.warning("folder_unreadable", reason=reason)

    def take_changes(self, names: Iterable[str], now: float) -> None:
        """Look again at files that are said to have changed."""
        for name in names:
            try:
                name.encode()
            except UnicodeEncodeError:
                continue  # the next scan sets it aside
            self._followed.observe(name, look_at(self._root / name), now)

    def retry(self, name: str, identity: str, now: float) -> None:
        """Look again at a file (identity "": all of it) or at a particle; at one not followed yet, once it is."""
        followed = self._followed
        with self._ledger.transaction():
            rows = self._ledger.release(name, identity)
            # images of a stack may lie under other names, too
            for known in {name, *(row.stack_name for row in rows)}:
                file = followed.stacks.get(known) or followed.manifests.get(known)
                if file is None:
                    continue
                file.settle.recheck()
                self._reporter.update(file, now)
                if isinstance(file, Stack):
                    followed.open_stacks[known] = file
                else:
                    followed.unread[known] = file
        followed.take_back(rows)
        followed.changed_at = now

    # What is done about it

    def step(self, now: float, budget_seconds: float = _STEP_SECONDS) -> bool:
        """Read what wants to be read; return True if the time budget ended first.

        What was found goes into the ledger at the end, in one transaction: on a disk, each costs a sync, and a session
        of ten thousand stacks would wait for twenty thousand of them.
        """
        began = time.monotonic()
        # what waits to be examined has its share of the time, too
        seeking = self._copies.bring_back(began + budget_seconds / 2)
        busy = self._look(now, began + budget_seconds)
        self._stacks.record(now)
        with self._ledger.transaction():
            self._manifests.record()
            if not busy:
                self._report(now)
        if not busy:
            self._reporter.publish()
        return busy or seeking

    def _look(self, now: float, end: float) -> bool:
        # Stacks first: the rows of a manifest stay in memory until its stacks are examined.
        first = [s for s in self._followed.open_stacks.values() if s.settle.referred and not s.replaced]
        if self._examine(first, now, end):
            return True
        for manifest in self._manifests.in_order():
            if self._manifests.due(manifest, now):
                self._manifests.read(manifest, now)
                if time.monotonic() > end:
                    return True
        return self._examine(list(self._followed.open_stacks.values()), now, end)

    def _examine(self, stacks: list[Stack], now: float, end: float) -> bool:
        # Those whose images were replaced last: the others may hold what they held.
        for stack in sorted(stacks, key=lambda s: s.replaced):
            if self._stacks.due(stack, now):
                self._stacks.examine(stack, now)
                if time.monotonic() > end:
                    return True
        return False

    def _report(self, now: float) -> None:
        for manifest in list(self._followed.unread.values()):
            self._reporter.update(manifest, now)
            if manifest.state is FileState.READY and manifest.reread_at is None:
                del self._followed.unread[manifest.name]
        for stack in list(self._followed.open_stacks.values()):
            self._reporter.update(stack, now)
            if stack.state is FileState.READY:
                self._stacks.give_up_rows(stack, now)
                if not stack.rows:
                    del self._followed.open_stacks[stack.name]
