"""The ledger's memory of what files hold: which images, in which sections, and which particle each of them is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamrecon.ingest.fingerprint import Fingerprint
from streamrecon.ingest.ledger_schema import LedgerDatabase

STACK_MISSING = "stack_missing"  # why a particle was set aside of which no file held the image when it was to be read
# as many contents with one first image are looked at; a session that has more is no session
_MOST_CANDIDATES = 1000
_MOST_PARAMETERS = 500  # of one query


@dataclass(frozen=True)
class Content:
    """What one file holds, or several do, or one did: its number and its fingerprint."""

    number: int
    seen: Fingerprint


@dataclass(frozen=True)
class Place:
    """Where an image lies: a file's name, a section of it, and its digest (None: from an older ledger)."""

    name: str
    section: int
    image: bytes | None


@dataclass(frozen=True)
class Known:
    """A particle that is in the ledger: its number there, and whether it was set aside."""

    particle: int
    set_aside: bool


class ContentLedger:
    """What each file held when it was last examined.

    A content is a list of images. Files that hold the same have the same content; each file's content has exactly the
    sections of the file. A place says which particle the image in one section of a content is: an image has one
    particle, however many places.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._connection = database.connection

    # Contents

    def of(self, name: str) -> Content | None:
        """Return what a file held when it was last examined, there or not."""
        row = self._connection.execute(
            "SELECT number, first, sample, sections FROM files JOIN contents ON number = content WHERE name = ?",
            (name,),
        ).fetchone()
        return None if row is None else Content(row[0], Fingerprint(*row[1:]))

    def candidates(self, seen: Fingerprint) -> list[Content]:
        """Return the contents that a file may begin with, by its first section, the longest first."""
        rows = self._connection.execute(
            "SELECT number, first, sample, sections FROM contents WHERE first = ? AND sections <= ?"
            " ORDER BY sections DESC, number LIMIT ?",
            (seen.first, seen.sections, _MOST_CANDIDATES),
        )
        return [Content(number, Fingerprint(*rest)) for number, *rest in rows]

    def add(self, seen: Fingerprint, begins_with: int | None = None) -> int:
        """Note a new content, of which the first images are those of another if any; return its number."""
        cursor = self._connection.execute(
            "INSERT INTO contents (first, sample, sections) VALUES (?, ?, ?)", (seen.first, seen.sample, seen.sections)
        )
        if begins_with is not None:
            self._connection.execute(
                "INSERT INTO places SELECT ?, section, particle, image FROM places WHERE content = ?",
                (cursor.lastrowid, begins_with),
            )
        return int(cursor.lastrowid or 0)

    def extend(self, number: int, seen: Fingerprint) -> None:
        """Note that a content has more images than it had."""
        self._connection.execute(
            "UPDATE contents SET first = ?, sample = ?, sections = ? WHERE number = ?",
            (seen.first, seen.sample, seen.sections, number),
        )

    def sections(self, number: int) -> set[int]:
        """Return the zero-based sections of a content of which the particle is known, in whatever state."""
        rows = self._connection.execute("SELECT section FROM places WHERE content = ?", (number,))
        return {section for (section,) in rows}

    # Files

    def names(self, number: int) -> list[str]:
        """Return the files that held a content when they were last examined."""
        return [n for (n,) in self._connection.execute("SELECT name FROM files WHERE content = ?", (number,))]

    def put(self, name: str, number: int) -> None:
        """Note what a file holds. What it held before stays known, unless that had no particles."""
        self._connection.execute(
            "INSERT INTO files (name, content) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET content = ?2,"
            " before = iif(EXISTS (SELECT 1 FROM places WHERE content = files.content), files.content, before)",
            (name, number),
        )

    def share(self, name: str, number: int) -> None:
        """Note under which number a file's content goes from now on: it has grown, while others' has not."""
        self._connection.execute("UPDATE files SET content = ? WHERE name = ?", (number, name))

    def vacate(self, name: str) -> None:
        """Forget what a file held that lies elsewhere now: what comes under its name is new."""
        self._connection.execute("DELETE FROM files WHERE name = ?", (name,))

    def before(self, name: str) -> int | None:
        """Return the content that a file had before it was written anew."""
        row = self._connection.execute("SELECT before FROM files WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def note_copy(self, name: str, of: str) -> bool:
        """Note that a file holds images that another had first; return False if that was known."""
        cursor = self._connection.execute("UPDATE files SET copy_of = ? WHERE name = ? AND copy_of IS NULL", (of, name))
        return cursor.rowcount > 0

    # Particles

    def particles_of(self, images: Iterable[bytes]) -> dict[bytes, Known]:
        """Return which particles some images are; those that are new are not in it."""
        found: dict[bytes, Known] = {}
        wanted = list(images)
        for start in range(0, len(wanted), _MOST_PARAMETERS):
            chunk = wanted[start : start + _MOST_PARAMETERS]
            marks = ", ".join("?" * len(chunk))
            for image, particle, aside in self._connection.execute(
                "SELECT image, id, state = 'quarantined' FROM places JOIN particles ON id = particle"
                f" WHERE image IN ({marks})",
                chunk,
            ):
                found[image] = Known(particle, bool(aside))
        return found

    def particle_at(self, number: int, section: int) -> Known | None:
        """Return which particle the image in a section of a content is."""
        row = self._connection.execute(
            "SELECT id, state = 'quarantined' FROM places JOIN particles ON id = particle"
            " WHERE content = ? AND section = ?",
            (number, section),
        ).fetchone()
        return None if row is None else Known(row[0], bool(row[1]))

    def place(self, number: int, places: Iterable[tuple[int, int, bytes | None]]) -> None:
        """Note which particles the images in some sections of a content are: (section, particle, image)."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO places (content, section, particle, image) VALUES (?, ?, ?, ?)",
            [(number, *place) for place in places],
        )

    def undigested(self, number: int) -> list[int]:
        """Return the sections of good images of which an older ledger kept no digest."""
        rows = self._connection.execute(
            "SELECT section FROM places JOIN particles ON id = particle"
            " WHERE content = ? AND image IS NULL AND state != 'quarantined'",
            (number,),
        )
        return [section for (section,) in rows]

    def put_image(self, number: int, section: int, image: bytes) -> None:
        """Note what tells the image in a section of a content."""
        self._connection.execute(
            "UPDATE places SET image = ? WHERE content = ? AND section = ?", (image, number, section)
        )

    def places_of(self, particle: int) -> list[Place]:
        """Return where a particle's image lies, as far as is known."""
        rows = self._connection.execute(
            "SELECT name, section, image FROM places JOIN files USING (content) WHERE particle = ? ORDER BY name",
            (particle,),
        )
        return [Place(*row) for row in rows]

    def missing(self) -> list[int]:
        """Return the particles of which no file held the images when they were to be delivered."""
        # CROSS JOIN: from what was set aside, which is little beside all particles of the session
        rows = self._connection.execute(
            "SELECT particles.id FROM quarantine CROSS JOIN particles USING (identity)"
            " WHERE kind = ? AND state = 'quarantined' ORDER BY particles.id",
            (STACK_MISSING,),
        )
        return [number for (number,) in rows]

    def places_of_batch(self, batch_id: int) -> dict[str, list[Place]]:
        """Return where the images of a batch lie, by identity; one that was never examined is not in it."""
        found: dict[str, list[Place]] = {}
        for identity, *place in self._connection.execute(
            "SELECT identity, name, section, image FROM particles JOIN places ON particle = id"
            " LEFT JOIN files USING (content) WHERE batch_id = ? ORDER BY name",
            (batch_id,),
        ):
            places = found.setdefault(identity, [])
            if place[0] is not None:
                places.append(Place(*place))
        return found
