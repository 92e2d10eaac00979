"""One look at the whole watched folder: every file that may matter, with its size and mtime.

A session has ten thousands of files, and each is looked at every few seconds: names are strings here, relative to the
root, as the ledger spells them; nothing is made of a file that its user does not ask for.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

STACK_SUFFIXES = (".mrcs", ".mrc")


class Sighting(NamedTuple):
    """A file as it was at one moment; ``is_regular`` is False for a folder or device of that name."""

    size: int
    mtime_ns: int
    is_regular: bool


@dataclass(frozen=True)
class Wanted:
    """Which files of the watched folder matter.

    Names are relative to the root, with slashes.

    Attributes
    ----------
    root : Path
    manifest_patterns : sequence of str
        Matched against the file's own name; against its path below the root if the pattern holds a slash.
    exclude : tuple of Path
        Folders not to look into, above all the session's own output.
    """

    root: Path
    manifest_patterns: Sequence[str]
    exclude: tuple[Path, ...] = ()

    @cached_property
    def excluded(self) -> frozenset[str]:
        """Names of the folders not to look into."""
        return frozenset(name for e in self.exclude if (name := self.name_of(str(e))) is not None)

    @cached_property
    def _root_prefix(self) -> str:
        return os.path.join(str(self.root), "")  # noqa: PTH118 (a Path has no slash at its end)

    @cached_property
    def _manifest_file(self) -> re.Pattern[str]:
        return _any_of([p for p in self.manifest_patterns if "/" not in p])

    @cached_property
    def _manifest_path(self) -> re.Pattern[str]:
        return _any_of([p for p in self.manifest_patterns if "/" in p])

    def name_of(self, path: str) -> str | None:
        """Return what a path is called below the root, None if it does not lie there."""
        prefix = self._root_prefix
        return path[len(prefix) :] if path.startswith(prefix) else None

    def is_manifest(self, name: str) -> bool:
        """Return True if a name matches one of the manifest patterns."""
        file_name = name[name.rfind("/") + 1 :]
        return self._manifest_file.match(file_name) is not None or self._manifest_path.match(name) is not None

    def is_stack(self, name: str) -> bool:
        """Return True if a file is named like a stack."""
        return name.lower().endswith(STACK_SUFFIXES)

    def __call__(self, name: str) -> bool:
        """Return True if a file may be a stack or a manifest: hidden and temporary names are not."""
        if name.startswith(".") or "/." in name:
            return False
        if any(name.startswith(f"{folder}/") for folder in self.excluded):
            return False
        return self.is_stack(name) or self.is_manifest(name)


def look_at(path: Path) -> Sighting | None:
    """Return how a file is now, None if it is not there or may not be seen."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return Sighting(status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))


class Scan:
    """One walk through the root, made while one iterates over it: the name and a `Sighting` of each file.

    It follows symbolic links to folders, too; each folder is visited once however many ways lead to it.

    Parameters
    ----------
    wanted : Wanted
    root_present : bool or None
        Whether the root is there, from whoever knows more of it than that it is a folder.

    Attributes
    ----------
    root_present : bool
        False says nothing about the files: a file server that is away does not delete them.
    unnameable : list of str
        Paths that are not UTF-8, escaped; complete once the walk has ended, as is the next.
    unreadable : list of str
        Folders that could not be listed, or not to their end, with the reason.

    Notes
    -----
    Nothing is kept of a file: a list of them all would be the largest thing in ingest's memory.
    """

    def __init__(self, wanted: Wanted, *, root_present: bool | None = None) -> None:
        self._wanted = wanted
        self.root_present = _is_folder(wanted.root) if root_present is None else root_present
        self.unnameable: list[str] = []
        self.unreadable: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, Sighting]]:
        """Walk."""
        if not self.root_present:
            return
        visited: set[tuple[int, int]] = set()
        folders, linked = [""], list[str]()
        while folders or linked:
            # Links last, so that a folder that is also inside the root goes by its own name.
            folder = folders.pop() if folders else linked.pop()
            path = self._wanted.root / folder
            try:
                status = path.stat()
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                with os.scandir(path) as entries:
                    yield from self._files(f"{folder}/" if folder else "", entries, folders, linked)
            except OSError as error:
                self.unreadable.append(f"{_printable(path)}: {error.strerror}")

    def _files(
        self, prefix: str, entries: Iterator[os.DirEntry[str]], folders: list[str], linked: list[str]
    ) -> Iterator[tuple[str, Sighting]]:
        """Return the files of one folder; note the folders in it. This is done for every file at every scan."""
        is_stack, is_manifest = self._wanted.is_stack, self._wanted.is_manifest
        for entry in entries:
            own_name = entry.name
            if own_name[0] == ".":
                continue
            name = prefix + own_name
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if is_folder:
                if name in self._wanted.excluded:
                    continue
                (linked if entry.is_symlink() else folders).append(name)
            # nothing below an excluded folder gets here
            if not (own_name.endswith(STACK_SUFFIXES) or is_manifest(name) or is_stack(name)):
                continue
            if not (name.isascii() or self._is_nameable(name)):
                continue
            try:
                status = entry.stat()
            except (OSError, ValueError):
                continue
            yield name, Sighting(status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))

    def _is_nameable(self, name: str) -> bool:
        try:
            name.encode()
        except UnicodeEncodeError:
            self.unnameable.append(_printable(self._wanted.root / name))
            return False
        return True


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    # of no patterns: what matches nothing
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")


def _is_folder(path: Path) -> bool:
    """Return False, too, for what cannot be looked at: a stale handle, a server that is away."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _printable(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
