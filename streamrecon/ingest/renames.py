"""Telling a stack that was renamed from a new one, and from a copy.

By its images, not by its inode: network file systems have no lasting ones, local ones give them out again at once. A
stack has been renamed if it holds what another held, and that other is no longer where it was. While both are there,
one is a copy, and a file of its own.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from streamrecon.errors import IngestError
from streamrecon.ingest.fingerprint import Fingerprint, fingerprint
from streamrecon.ingest.followed import Followed
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_contents import Candidate
from streamrecon.ingest.scan import look_at
from streamrecon.ingest.tracked import Stack

_log = structlog.get_logger(__name__)


class Renames:
    """Decides whose particles a stack's are.

    Parameters
    ----------
    root : Path
        Absolute.
    followed : Followed
    ledger : Ledger
    """

    def __init__(self, root: Path, followed: Followed, ledger: Ledger) -> None:
        self._root = root
        self._followed = followed
        self._ledger = ledger

    def recall(self, stack: Stack) -> None:
        """Fill in what the ledger knows of a stack by its name."""
        stack.origin = self._ledger.contents.stack_at(stack.name)
        stack.known = bytearray()
        if stack.origin is not None:
            for index in self._ledger.known_sections(stack.origin):
                stack.note_known(index)

    def settle(self, stack: Stack, seen: Fingerprint) -> None:
        """Decide whose particles a stack's are, now that its images are known.

        In the caller's transaction. A stack that holds something else than before, which no vanished one held, was
        written anew: its particles are those that it had.
        """
        contents = self._ledger.contents
        if stack.known is None:
            self.recall(stack)
        held = [] if stack.origin is None else contents.held(stack.origin)
        if all(seen.first != h.first for h in held):
            if (origin := self.find(stack, seen)) is not None:
                self.become(stack, origin)
            elif stack.origin is None or (held and self._went_elsewhere(stack, held)):
                self._followed.start_over(stack)
                stack.origin, stack.known = contents.new_stack(stack.name), bytearray()
        if stack.origin is not None and contents.held(stack.origin)[:1] != [seen]:
            contents.note(stack.origin, seen)

    def find(self, stack: Stack, seen: Fingerprint) -> str | None:
        """Return which stack this one was before it was renamed, None if there is none."""
        vanished = []
        for candidate in self._ledger.contents.candidates(seen.first):
            if candidate.stack == stack.origin or not _holds(stack.path, candidate.fingerprint, seen):
                continue
            before = self._ledger.contents.name_of(candidate.stack)
            if before is None or not self._is_there(before, candidate):
                # a rename keeps size and time: of several copies that are gone it tells which one this was
                like = before is not None and self._ledger.stack_signature(before) == stack.settle.signature
                vanished.append((like, candidate.stack))
        return max(vanished, key=lambda found: found[0])[1] if vanished else None

    def become(self, stack: Stack, origin: str) -> None:
        """Take a stack for one that lay elsewhere, in the caller's transaction; who was that is asked anew what it is.

        Its particles that had been set aside are looked at again: perhaps they only could not be found.
        """
        before = self._ledger.contents.name_of(origin)
        self._ledger.contents.move(origin, stack.name)
        for name in {before, origin} - {None, stack.name}:
            other = self._followed.stacks.get(self._root / str(name))
            if other is not None and other.origin == origin:
                self._followed.start_over(other)
        released = self._ledger.release(origin)
        self.recall(stack)
        stack.rows = {i: row for i, row in stack.rows.items() if not stack.is_known(i)}
        stack.take_back(row for row in released if row.stack_index not in stack.rows)
        _log.info("stack_renamed", name=stack.name, before=before or origin, known_as=origin)

    def _is_there(self, name: str, candidate: Candidate) -> bool:
        """Whether the file of that name still holds what the candidate held."""
        path = self._root / name
        sighting = look_at(path)
        if sighting is None or not sighting.is_regular:
            return False
        # as when it was last read: then it holds what it held then
        if self._ledger.stack_signature(name) == (sighting.size, sighting.mtime_ns):
            return self._ledger.contents.held(candidate.stack)[0].first == candidate.fingerprint.first
        return _holds(path, candidate.fingerprint)

    def _went_elsewhere(self, stack: Stack, held: list[Fingerprint]) -> bool:
        """Whether what a stack held until now lies under another name that nobody has looked at yet."""
        before = self._ledger.stack_signature(stack.name)
        for other in list(self._followed.stacks.values()):
            if other is stack or before is None or other.settle.signature != before:
                continue
            if stack.origin is not None and _holds(other.path, held[0]):
                origin, stack.origin = stack.origin, None
                self.become(other, origin)
                return True
        return False


def _holds(path: Path, wanted: Fingerprint, seen: Fingerprint | None = None) -> bool:
    """Whether a stack begins with the images of another."""
    if seen is not None and seen.sections <= wanted.sections:
        return seen == wanted
    try:
        return fingerprint(path, wanted.sections) == wanted
    except IngestError:
        return False
