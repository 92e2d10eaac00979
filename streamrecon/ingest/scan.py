"""One look at the whole watched folder: every file that may matter, with its size and mtime."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

STACK_SUFFIXES = (".mrcs", ".mrc")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as it was at one moment; ``is_regular`` is False for a folder or device of that name."""

    size: int
    mtime_ns: int
    is_regular: bool


@dataclass
class Scan:
    """What one walk found.

    Attributes
    ----------
    root_present : bool
        False says nothing about the files: a file server that is away does not delete them.
    files : dict of Path to Sighting
    unnameable : list of str
        Paths that are not UTF-8, escaped.
    unreadable : list of str
        Folders that could not be listed, with the reason.
    """

    root_present: bool = True
    files: dict[Path, Sighting] = field(default_factory=dict)
    unnameable: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """Which files of the watched folder matter.

    Attributes
    ----------
    root : Path
    manifest_patterns : sequence of str
        Matched against the file's name; against its path below the root if the pattern holds a slash.
    exclude : tuple of Path
        Folders not to look into, above all the session's own output.
    """

    root: Path
    manifest_patterns: Sequence[str]
    exclude: tuple[Path, ...] = ()

    def is_manifest(self, path: Path) -> bool:
        """Return True if the path matches one of the manifest patterns."""
        if any("/" not in p and fnmatch(path.name, p) for p in self.manifest_patterns):
            return True
        by_path = [p for p in self.manifest_patterns if "/" in p]
        if not by_path:
            return False
        below = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)
        return any(fnmatch(below, p) for p in by_path)

    def is_stack(self, path: Path) -> bool:
        """Return True if the path is named like a stack."""
        return path.suffix.lower() in STACK_SUFFIXES

    def __call__(self, path: Path) -> bool:
        """Return True if the path may be a stack or a manifest: hidden and temporary names are not."""
        if path.name.startswith(".") or any(path.is_relative_to(e) for e in self.exclude):
            return False
        return self.is_stack(path) or self.is_manifest(path)


def look_at(path: Path | os.DirEntry[str]) -> Sighting | None:
    """Return how a file is now, None if it is not there or may not be seen."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return Sighting(status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))


def scan_tree(wanted: Wanted) -> Scan:
    """Walk the root, symbolic links to folders too, each folder once however many ways lead to it."""
    result = Scan()
    if not _is_folder(wanted.root):
        result.root_present = False
        return result
    visited: set[tuple[int, int]] = set()
    folders, linked = [wanted.root], list[Path]()
    while folders or linked:
        # Links last, so that a folder that is also inside the root goes by its own name.
        folder = folders.pop() if folders else linked.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = list(_entries(folder))
        except OSError as error:
            result.unreadable.append(f"{_printable(folder)}: {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if _is_folder(entry):
                if path in wanted.exclude:
                    continue
                (linked if entry.is_symlink() else folders).append(path)
            # nothing below an excluded folder gets here
            if wanted.is_stack(path) or wanted.is_manifest(path):
                _note(result, path, entry)
    return result


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def _is_folder(entry: os.DirEntry[str] | Path) -> bool:
    """Return False, too, for what cannot be looked at: a link to itself, a stale handle, a server that is away."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _note(result: Scan, path: Path, entry: os.DirEntry[str]) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        result.unnameable.append(_printable(path))
        return
    sighting = look_at(entry)
    if sighting is not None:
        result.files[path] = sighting


def _printable(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
