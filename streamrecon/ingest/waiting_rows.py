"""Rows that a manifest has for one stack, for as long as they wait for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np

from streamrecon.particles import ParticleTable
from streamrecon.transport.table_wire import ParticleRow, table_to_rows

# of all stacks that wait for nothing: an empty dictionary for each would be a tenth of what is kept of it
NO_ROWS: Final[Mapping[int, ParticleRow]] = MappingProxyType({})


class WaitingRows(Mapping[int, ParticleRow]):
    """Rows by zero-based section, under the ledger's name of their stack; objects are made of them once one is read.

    Parameters
    ----------
    table : ParticleTable
        Rows of one stack. Of those that name the same section the last counts.
    stack_name : str
        The ledger's.

    Notes
    -----
    As an object a row takes half a kilobyte, in columns a tenth of that; and a STAR that names everything brings the
    rows of all stacks of a session at once.
    """

    __slots__ = ("_made", "_stack_name", "_table")

    def __init__(self, table: ParticleTable, stack_name: str) -> None:
        distinct, from_end = np.unique(table.stack_index[::-1], return_index=True)
        if len(distinct) < len(table):
            table = table.select(len(table) - 1 - from_end)
        self._table = table
        self._stack_name = stack_name
        self._made: dict[int, ParticleRow] | None = None

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[int]:
        yield from self._table.stack_index.tolist()

    def __contains__(self, section: object) -> bool:
        return bool((self._table.stack_index == section).any())

    def __getitem__(self, section: int) -> ParticleRow:
        if self._made is None:
            rows = (printable_row(row, self._stack_name) for row in table_to_rows(self._table))
            self._made = {row.stack_index: row for row in rows}
        return self._made[section]


def printable_row(row: ParticleRow, stack_name: str) -> ParticleRow:
    """Return the row under the ledger's name of its stack; names that are not UTF-8 are escaped."""
    micrograph = row.micrograph_name
    if micrograph is not None:
        micrograph = micrograph.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return msgspec.structs.replace(row, stack_name=stack_name, micrograph_name=micrograph)
