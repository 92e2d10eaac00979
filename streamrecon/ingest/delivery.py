"""Turning a batch of the ledger into the message that carries it, with its pixels if asked for."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import IngestError
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_batches import decode_body
from streamrecon.ingest.ledger_schema import BatchRecord
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
        return _identities(decode_body(batch))

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
        identities = _identities(table)
        # particles keep the name that their stack had first; it may have been renamed since
        names = [self._ledger.contents.name_of(stack) or stack for stack in table.stack_names]
        table = msgspec.structs.replace(table, stack_names=names)
        box_size = table.optics_groups[0].box_size
        message = Batch(
            batch_id=batch.batch_id,
            session=self._ledger.session,
            table=msgspec.structs.replace(table, stack_names=[str(self._root / name) for name in names]),
            identities=identities,
            by_reference=by_reference,
            box_size=box_size,
            stack_bytes=self._ledger.stack_sizes(names) if by_reference else [],
        )
        if by_reference:
            return message, None, {}
        pixels, bad = self._read(table, identities, box_size)
        return message, pixels, bad

    def _read(
        self, table: TableWire, identities: list[str], box_size: int
    ) -> tuple[NDArray[np.float32], dict[str, tuple[str, str]]]:
        rows_of: defaultdict[int, list[int]] = defaultdict(list)
        for row, stack in enumerate(table.stack_number):
            rows_of[stack].append(row)
        pixels = np.empty((len(table), box_size, box_size), np.float32)
        bad: dict[str, tuple[str, str]] = {}
        for stack, rows in rows_of.items():
            path = self._root / table.stack_names[stack]
            try:
                images = read_sections(path, [table.stack_index[row] for row in rows])
                if images.shape[1:] != pixels.shape[1:]:
                    raise IngestError(
                        f"{path}: expected {box_size} x {box_size} pixels, found {images.shape[1:]}; "
                        "it was replaced after its particles were queued"
                    )
                pixels[rows] = images
            except IngestError as error:
                bad |= {identities[row]: (error.kind, str(error)) for row in rows}
        return pixels, bad


def _identities(table: TableWire) -> list[str]:
    names = table.stack_names
    return [
        f"{index + 1:06d}@{names[stack]}" for index, stack in zip(table.stack_index, table.stack_number, strict=True)
    ]
