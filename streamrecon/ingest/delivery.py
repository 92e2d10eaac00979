"""Turning a batch of the ledger into the message that carries it, with its pixels if asked for."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import IngestError, StackIncomplete
from streamrecon.ingest.fingerprint import digests_at, holds, image_digests
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_batches import decode_body
from streamrecon.ingest.ledger_chain import identities_of
from streamrecon.ingest.ledger_contents import STACK_MISSING, Place
from streamrecon.ingest.ledger_schema import BatchRecord
from streamrecon.ingest.scan import look_at
from streamrecon.io.mrc import read_sections
from streamrecon.transport.feed_schema import Batch
from streamrecon.transport.table_wire import TableWire


class Delivery:
    """Prepares batches for the wire.

    Parameters
    ----------
    ledger : Ledger
    root : Path
        Stack names of the ledger are relative to it; on the wire they are absolute.
    """

    def __init__(self, ledger: Ledger, root: Path) -> None:
        self._ledger = ledger
        self._root = root.absolute()

    def identities(self, batch: BatchRecord) -> list[str]:
        """Return the identities of a batch, in order."""
        return identities_of(batch.body)

    def prepare(
        self, batch: BatchRecord, *, by_reference: bool
    ) -> tuple[Batch, NDArray[np.float32] | None, dict[str, tuple[str, str]]]:
        """Return the message, its pixels unless it goes by reference, and the particles that cannot be read.

        Returns
        -------
        message : Batch
        pixels : ndarray, (n, box, box) float32, or None
        bad : dict of identity to (kind, reason)
            Empty if the batch can be sent.
        """
        table = decode_body(batch)
        identities = identities_of(batch.body)
        look = _Look(self._ledger, self._root)
        table, images, bad = self._locate(batch, table, identities, look)
        box_size = table.optics_groups[0].box_size
        signatures = [look.signature(name) for name in table.stack_names] if by_reference and not bad else []
        message = Batch(
            batch_id=batch.batch_id,
            session=self._ledger.session,
            table=msgspec.structs.replace(table, stack_names=[str(self._root / name) for name in table.stack_names]),
            identities=identities,
            by_reference=by_reference,
            box_size=box_size,
            link=batch.link,
            stack_bytes=[size for size, _ in signatures],
            stack_mtimes_ns=[mtime_ns for _, mtime_ns in signatures],
        )
        if by_reference or bad:
            return message, None, bad
        pixels, bad = self._read(table, identities, images, look, box_size)
        return message, pixels, bad

    def _locate(
        self, batch: BatchRecord, table: TableWire, identities: list[str], look: _Look
    ) -> tuple[TableWire, list[bytes | None], dict[str, tuple[str, str]]]:
        """Return the table with a file and section for each image in which it lies now, and the particles of none.

        Between the two: what tells each image, None where an older ledger does not know it.
        """
        places = self._ledger.contents.places_of_batch(batch.batch_id)
        names: dict[str, int] = {}
        numbers, indices = [], []
        images: list[bytes | None] = []
        bad: dict[str, tuple[str, str]] = {}
        for identity, stack, index in zip(identities, table.stack_number, table.stack_index, strict=True):
            known = places.get(identity, [Place(table.stack_names[stack], index, None)])
            place = next(filter(look.is_at, known), None)
            if place is None:
                where = ", ".join(str(self._root / p.name) for p in known) or "no file that is there"
                bad[identity] = _missing(identity, where)
                place = Place(table.stack_names[stack], index, None)
            numbers.append(names.setdefault(place.name, len(names)))
            indices.append(place.section)
            images.append(place.image)
        located = msgspec.structs.replace(table, stack_names=list(names), stack_number=numbers, stack_index=indices)
        return located, images, bad

    def _read(
        self, table: TableWire, identities: list[str], digests: list[bytes | None], look: _Look, box_size: int
    ) -> tuple[NDArray[np.float32], dict[str, tuple[str, str]]]:
        rows_of: defaultdict[int, list[int]] = defaultdict(list)
        for row, stack in enumerate(table.stack_number):
            rows_of[stack].append(row)
        pixels = np.empty((len(table), box_size, box_size), np.float32)
        bad: dict[str, tuple[str, str]] = {}
        for stack, rows in rows_of.items():
            name = table.stack_names[stack]
            path = self._root / name
            sections = [table.stack_index[row] for row in rows]
            try:
                try:
                    images = read_sections(path, sections, signature=look.signature(name))
                except StackIncomplete:
                    # changed since it was looked at: each image itself says whether it is still there
                    images = read_sections(path, sections)
                    found = zip(rows, image_digests(images), strict=True)
                    bad |= {
                        identities[row]: _missing(identities[row], str(path)) for row, d in found if d != digests[row]
                    }
                if images.shape[1:] != pixels.shape[1:]:
                    raise IngestError(
                        f"{path}: expected {box_size} x {box_size} pixels, found {images.shape[1:]}; "
                        "it was replaced after its particles were queued"
                    )
                pixels[rows] = images
            except IngestError as error:
                bad |= {identities[row]: (error.kind, str(error)) for row in rows}
        return pixels, bad


class _Look:
    """Looks once at each file of a batch."""

    def __init__(self, ledger: Ledger, root: Path) -> None:
        self._ledger = ledger
        self._root = root
        self._signatures: dict[str, tuple[int, int] | None] = {}  # None: not there
        self._whole: dict[str, bool] = {}

    def signature(self, name: str) -> tuple[int, int]:
        """Return size and time of change of a file with an image, as they were before it was read."""
        signature = self._signatures[name]
        if signature is None:
            raise KeyError(name)
        return signature

    def is_at(self, place: Place) -> bool:
        """Whether an image lies where it lay when the file was examined."""
        name = place.name
        if name not in self._signatures:
            sighting = look_at(self._root / name)
            self._signatures[name] = None if sighting is None else (sighting.size, sighting.mtime_ns)
        signature = self._signatures[name]
        if signature is None:
            return False
        if self._ledger.stack_signature(name) == signature:
            return True
        # it has changed, and may have grown, or hold others by now
        if place.image is not None:
            return digests_at(self._root / name, [place.section]) == [place.image]
        return self._holds_what_it_held(name)

    def _holds_what_it_held(self, name: str) -> bool:
        """Whether a file begins with what it held; True of one of which nothing is known."""
        if name not in self._whole:
            content = self._ledger.contents.of(name)
            self._whole[name] = content is None or holds(self._root / name, content.seen)
        return self._whole[name]


def _missing(identity: str, where: str) -> tuple[str, str]:
    return (
        STACK_MISSING,
        f"{identity}: expected its image in {where}, found it there no more; put the stack back, or wait if it was "
        "written anew: it comes back once that is examined",
    )
