"""Which particles a file's images are: an image counts once, in however many files, under whatever names it lies.

A file that holds what another held has its particles: a fingerprint says so, and neither a renamed stack nor a copy is
read again. All else is told image by image. Nothing depends on which file came first, or which is gone.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from streamrecon.ingest.fingerprint import Fingerprint, begins_with, digests_at, holds
from streamrecon.ingest.followed import Followed
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_contents import Content, Place
from streamrecon.ingest.metrics import IngestMetrics
from streamrecon.ingest.scan import look_at
from streamrecon.ingest.tracked import Stack
from streamrecon.transport.table_wire import ParticleRow

_log = structlog.get_logger(__name__)
_MOST_READ = 256  # sections at once
_MOST_RELEASED = 256  # particles at once


class Copies:
    """Decides which particles a stack's images are.

    Parameters
    ----------
    root : Path
        Absolute.
    followed : Followed
    ledger : Ledger
    metrics : IngestMetrics
    """

    def __init__(self, root: Path, followed: Followed, ledger: Ledger, metrics: IngestMetrics) -> None:
        self._root = root
        self._followed = followed
        self._ledger = ledger
        self._contents = ledger.contents
        self._metrics = metrics
        self._missing: deque[int] = deque()

    def recall(self, stack: Stack) -> None:
        """Fill in what the ledger knows of a file by its name."""
        content = self._contents.of(stack.name)
        stack.known = b""
        stack.note_known(set() if content is None else self._contents.sections(content.number))
        stack.replaced = self._contents.before(stack.name) is not None

    def unread(self, stack: Stack, seen: Fingerprint) -> dict[int, ParticleRow]:
        """Return the rows of a stack whose images have to be read; the others are known from another file."""
        if stack.known is not None and any(stack.known):
            return dict(stack.rows)
        twin = self.find(stack.path, seen)
        known = set() if twin is None else self._contents.sections(twin.number)
        return {index: row for index, row in stack.rows.items() if index not in known}

    def find(self, path: Path, seen: Fingerprint) -> Content | None:
        """Return the longest content that a file begins with and another held; None if there is none."""
        candidates = self._contents.candidates(seen)
        return next((c for c in candidates if begins_with(path, seen, c.seen)), None)

    def settle(self, stack: Stack, seen: Fingerprint) -> bool:
        """Note what a stack holds; return False if it held something else before, so that all its rows are wanted.

        In the caller's transaction.
        """
        held = self._contents.of(stack.name)
        if held is not None and begins_with(stack.path, seen, held.seen):
            self._grow(stack.name, held, seen)
            self._learn(stack.path, held.number)
            if stack.known is None:
                self.recall(stack)
            return True
        twin = self.find(stack.path, seen)
        if twin is not None and twin.seen == seen:
            number = twin.number
        else:
            number = self._contents.add(seen, None if twin is None else twin.number)
        self._contents.put(stack.name, number)
        if twin is not None:
            self._tell(stack, twin)
        if held is None:
            self.recall(stack)
        else:
            _log.info("stack_replaced", name=stack.name)
            self._place_known(stack.path, number, seen.sections)
            self._followed.lost += 1
            self._followed.start_over(stack)
            stack.replaced = True
        self.look_again(stack)
        return held is None

    def look_again(self, stack: Stack) -> None:
        """Have particles that were set aside examined anew, now that their stack has changed or is found."""
        content = self._contents.of(stack.name)
        if content is not None:
            self._followed.take_back(self._ledger.release_content(content.number))

    def seek_missing(self) -> None:
        """Have particles looked for that could not be delivered because no file held their images; see `bring_back`."""
        if not self._missing:
            self._missing.extend(self._contents.missing())

    def bring_back(self, end: float) -> bool:
        """Take up again those particles that are looked for and are there, until ``end`` in monotonic time.

        Returns
        -------
        bool
            True if some are left to be looked for: after an unmount it may be a whole session, and whoever waits for
            the caller must not wait for all of it.
        """
        back = 0
        while self._missing:
            found = self._found([self._missing.popleft() for _ in range(min(_MOST_RELEASED, len(self._missing)))])
            if found:
                self._followed.take_back(self._ledger.release_particles(found))
                back += len(found)
            if time.monotonic() > end:
                break
        if back:
            _log.info("particles_found_again", particles=back)
        return bool(self._missing)

    def _found(self, particles: Sequence[int]) -> list[int]:
        """Return those of some particles of which a file holds the image; each file is opened once, if at all."""
        wanted: defaultdict[str, list[tuple[int, Place]]] = defaultdict(list)
        for particle in particles:
            for place in self._contents.places_of(particle):
                wanted[place.name].append((particle, place))
        found: set[int] = set()
        for name, places in wanted.items():
            sighting = look_at(self._root / name)
            if sighting is None or not sighting.is_regular:
                continue
            if self._ledger.stack_signature(name) == (sighting.size, sighting.mtime_ns):
                found.update(particle for particle, _ in places)
                continue
            images = digests_at(self._root / name, [place.section for _, place in places])
            if images is not None and all(place.image for _, place in places):
                here = [place.image == image for (_, place), image in zip(places, images, strict=True)]
            else:  # shorter than it was, or known from an older ledger
                here = [self._is_at(place) for _, place in places]
            found.update(particle for (particle, _), is_here in zip(places, here, strict=True) if is_here)
        return sorted(found)

    def add(
        self,
        stack: Stack,
        rows: Mapping[int, ParticleRow],
        images: Mapping[int, bytes],
        bad: Mapping[int, tuple[str, str]],
    ) -> int:
        """Put the particles of a stack into the ledger of which the images are not in it; return how many are ready.

        In the caller's transaction.

        Parameters
        ----------
        stack : Stack
            Settled.
        rows : mapping of section to ParticleRow
        images : mapping of section to bytes
            What tells the good ones.
        bad : mapping of section to (kind, reason)
            Those to set aside.
        """
        content = self._contents.of(stack.name)
        if content is None:
            return 0
        number, before = content.number, self._contents.before(stack.name)
        placed = self._contents.sections(number)
        # images that are known first: where they lie decides what the others are
        particles = self._particles_of(images[i] for i in rows if i not in placed and i in images)
        known = [i for i in rows if i not in placed and images.get(i) in particles]
        self._contents.place(number, [(i, particles[images[i]], images[i]) for i in known])
        if known:
            self._find_original(stack, particles[images[known[0]]])
        ready = 0
        new: list[tuple[int, int, bytes | None]] = []
        for index in [i for i in rows if i not in placed and images.get(i) not in particles]:
            image = images.get(index)
            particle = None if image is None else particles.get(image)  # the same image twice among the new ones
            if particle is None and (particle := self._replaced(stack.name, before, index)) is not None:
                self._contents.place(number, [(index, particle, image)])
                particles[image] = particle  # of the next section that holds it, too
                continue
            if particle is None:
                particle = self._add_new(stack.name, rows[index], bad.get(index))
                ready += index not in bad
            if image is not None:
                particles[image] = particle
            new.append((index, particle, image))
        self._contents.place(number, new)
        return ready

    def _grow(self, name: str, held: Content, seen: Fingerprint) -> None:
        """Note that a file goes on after what it held; other files that hold that are as they were."""
        if seen == held.seen:
            return
        if self._contents.names(held.number) == [name]:
            self._contents.extend(held.number, seen)
        else:
            self._contents.share(name, self._contents.add(seen, held.number))

    def _learn(self, path: Path, number: int) -> None:
        """Note what tells the images that an older ledger knew by their stack only."""
        sections = self._contents.undigested(number)
        for start in range(0, len(sections), _MOST_READ):
            chunk = sections[start : start + _MOST_READ]
            for section, image in zip(chunk, digests_at(path, chunk) or (), strict=False):
                self._contents.put_image(number, section, image)

    def _place_known(self, path: Path, number: int, sections: int) -> None:
        """Note at once where known images lie in a file that was written anew: none may be taken for gone meanwhile."""
        placed = self._contents.sections(number)
        missing = [section for section in range(sections) if section not in placed]
        for start in range(0, len(missing), _MOST_READ):
            chunk = missing[start : start + _MOST_READ]
            images = dict(zip(chunk, digests_at(path, chunk) or (), strict=False))
            particles = self._particles_of(images.values())
            known = [(i, particles[image], image) for i, image in images.items() if image in particles]
            self._contents.place(number, known)

    def _particles_of(self, images: Iterable[bytes]) -> dict[bytes | None, int]:
        """Return which particles images are; those that are new are not in it."""
        found: dict[bytes | None, int] = {}
        for image, known in self._contents.particles_of(images).items():
            if known.set_aside:
                # it could not be read, or not be used; now it is seen again
                self._ledger.release_particle(known.particle)
            else:
                found[image] = known.particle
        return found

    def _replaced(self, name: str, before: int | None, index: int) -> int | None:
        """Return the particle of which a new image has taken the place, None if the old one lies elsewhere."""
        known = None if before is None else self._contents.particle_at(before, index)
        if known is None:
            return None
        if known.set_aside:
            self._ledger.release_particle(known.particle)
            return None
        others = (p for p in self._contents.places_of(known.particle) if (p.name, p.section) != (name, index))
        return None if any(map(self._is_at, others)) else known.particle

    def _add_new(self, name: str, row: ParticleRow, bad: tuple[str, str] | None) -> int:
        """Add a particle under the file's name; if another has that, which lay there before, with a number behind."""
        number = 1
        while (particle := self._ledger.add_particle(row, bad)) is None:
            number += 1
            row = msgspec.structs.replace(row, stack_name=f"{name} ({number})")
        return particle

    def _is_at(self, place: Place) -> bool:
        """Whether an image lies where it lay when it was last read."""
        path = self._root / place.name
        if place.image is not None:
            return digests_at(path, [place.section]) == [place.image]
        content = self._contents.of(place.name)
        return content is not None and holds(path, content.seen)

    def _tell(self, stack: Stack, twin: Content) -> None:
        """Say whether a file that holds what others held is a copy of one of them, or what became of it."""
        others = [name for name in self._contents.names(twin.number) if name != stack.name]
        here = [name for name in others if holds(self._root / name, twin.seen)]
        if here:
            self._note_copy(stack, here[0])
            return
        if others:
            _log.info("stack_renamed", name=stack.name, before=others)
        for name in others:
            if look_at(self._root / name) is None:
                # what comes under that name is another stack; what its manifests say is waited for
                self._contents.vacate(name)
                if (other := self._followed.stacks.get(name)) is not None:
                    self._followed.start_over(other)

    def _find_original(self, stack: Stack, particle: int) -> None:
        """Say that a file holds an image of another, if that is there."""
        others = (p for p in self._contents.places_of(particle) if p.name != stack.name)
        if (place := next(filter(self._is_at, others), None)) is not None:
            self._note_copy(stack, place.name)

    def _note_copy(self, stack: Stack, of: str) -> None:
        if self._contents.note_copy(stack.name, of):
            self._metrics.stack_copied()
            _log.info("stack_copied", name=stack.name, first=of)
