"""Noticing change below the watched folder: events are hints, a scan now and then is the truth.

inotify says nothing of writes by other hosts on NFS, GPFS or SMB, and runs out of watches on large trees.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from typing import Literal

import structlog
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from streamrecon.ingest.filesystem import filesystem_type, is_network
from streamrecon.ingest.root import WatchedRoot
from streamrecon.ingest.scan import Scan, Wanted

_log = structlog.get_logger(__name__)
# Opening and closing without writing are our own doing.
_CHANGES = frozenset({"created", "modified", "moved", "closed", "deleted"})
_EARLY_SCAN_SECONDS = 1.0
# of one processor, at most, for scans: a folder of many files is looked over less often
SCAN_SHARE = 0.05


class _Hints(FileSystemEventHandler):  # type: ignore[misc]  # watchdog is not typed for mypy here
    """Collects the paths that events name; called from watchdog's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self._new_folder = False

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note the paths of one event."""
        if event.event_type in _CHANGES:
            paths = [os.fsdecode(p) for p in (event.src_path, event.dest_path) if p]
            with self._lock:
                self._paths.update(paths)
                self._new_folder |= event.is_directory and event.event_type in ("created", "moved")

    def take(self) -> set[str]:
        """Return the paths noted since the last call."""
        with self._lock:
            paths, self._paths = self._paths, set()
        return paths

    def take_new_folder(self) -> bool:
        """Return True if a folder came since the last call."""
        with self._lock:
            new, self._new_folder = self._new_folder, False
        return new


class Watcher:
    """Says which paths changed, and scans.

    Parameters
    ----------
    wanted : Wanted
        The root and what matters below it.
    mode : {"auto", "events", "polling"}
        "auto" polls where the root lies on a network file system; asked again when the root comes, or is another.
    scan_seconds : float
        Time between reconciling scans; more where one takes more than `SCAN_SHARE` of it from the processor.
    root : WatchedRoot or None
        Knows whether the root is there; None: it is wherever it can be listed.
    """

    def __init__(
        self,
        wanted: Wanted,
        mode: Literal["auto", "events", "polling"] = "auto",
        scan_seconds: float = 10.0,
        root: WatchedRoot | None = None,
    ) -> None:
        self.wanted = wanted
        self._root = root or WatchedRoot(wanted.root, lambda _: ())
        self._mode = mode
        self._scan_seconds = scan_seconds
        self._next_scan: float | None = None
        self._pause = 0.0  # as the last scan cost so much
        self._not_before = -math.inf
        self._hints = _Hints()
        self._observer: Observer | None = None
        self._threads: list[threading.Thread] = []
        self._root_id: tuple[int, int] | None = None
        self._events = self._wants_events()

    @property
    def mode(self) -> Literal["events", "polling"]:
        """How changes are noticed now."""
        return "events" if self._events else "polling"

    @property
    def root_present(self) -> bool:
        """False while the watched root is away."""
        return self._root.present

    def changed(self) -> set[str]:
        """Return the names of wanted files that events named since the last call."""
        names = map(self.wanted.name_of, self._hints.take())
        return {name for name in names if name is not None and self.wanted(name)}

    def scan_due(self, now: float) -> bool:
        """Return True if it is time for the next `scan`; the first is due at once."""
        if self._next_scan is None:
            return True
        if self._hints.take_new_folder():
            # What was written there before the folder was watched gave no event.
            self._next_scan = min(self._next_scan, now + _EARLY_SCAN_SECONDS)
        return now >= max(self._next_scan, self._not_before)

    def scanned(self, now: float, processor_seconds: float) -> None:
        """Take what a scan that began at ``now`` has cost, with all that was done about what it found."""
        self._pause = processor_seconds / SCAN_SHARE
        self._not_before = now + self._pause

    @property
    def interval_seconds(self) -> float:
        """Time from one scan to the next, as it is now."""
        return max(self._scan_seconds, self._pause)

    def scan(self, now: float) -> Scan:
        """Return a walk through the tree; watch the root anew if it came, or is not the folder that was watched."""
        self._next_scan = now + self._scan_seconds
        self._root.look()
        self._watch_root()
        return Scan(self.wanted, root_present=self._root.present)

    def stop(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            if self._observer.is_alive():
                self._observer.join(5.0)
            self._observer = None

    def _watch_root(self) -> None:
        root_id = self._root.identity
        if root_id is None:
            self.stop()
            self._root_id = None
            return
        if root_id != self._root_id:
            self.stop()
            self._root_id = root_id
            self._events = self._wants_events()
        if not self._events:
            return
        if self._observer is not None:
            # A watch that cannot be added for a new folder ends watchdog's thread, and nobody is told.
            if not all(thread.is_alive() for thread in self._threads):
                self._poll_instead("an event thread ended; fs.inotify.max_user_watches may be too small")
            return
        # Said of a folder that both its parent's event and the walk below it found: harmless, and it is often so.
        warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)
        try:
            self._observer = Observer()
            self._observer.schedule(self._hints, str(self.wanted.root), recursive=True)
            self._observer.start()
            self._threads = [t for t in threading.enumerate() if type(t).__module__.startswith("watchdog.")]
        except OSError as error:
            self._poll_instead(f"{error.strerror}; raise fs.inotify.max_user_watches / max_user_instances")

    def _wants_events(self) -> bool:
        if self._mode == "auto":
            fstype = filesystem_type(self.wanted.root)
            if is_network(fstype):
                _log.info("watch_polls", root=str(self.wanted.root), reason=f"{fstype} is a network file system")
                return False
        return self._mode != "polling"

    def _poll_instead(self, reason: str) -> None:
        self.stop()
        self._events = False
        _log.warning("watch_polls", root=str(self.wanted.root), reason=reason)
