"""A particle table as plain JSON columns, and as single rows; NaN travels as null."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from streamrecon.errors import TransportError
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_H = TypeVar("_H", bound=Hashable)


class OpticsWire(Struct, frozen=True, array_like=True):
    """One optics group; fields as in `OpticsGroup`."""

    name: str
    voltage_kilovolt: float
    spherical_aberration_millimeter: float
    amplitude_contrast: float
    pixel_size_angstrom: float
    box_size: int


class TableWire(Struct, frozen=True):
    """Columns of a `ParticleTable`; rotations and shifts are flat, C order."""

    optics_groups: list[OpticsWire]
    stack_names: list[str]
    optics_group_index: list[int]
    stack_number: list[int]
    stack_index: list[int]
    defocus_u_angstrom: list[float | None]
    defocus_v_angstrom: list[float | None]
    astigmatism_angle_degrees: list[float | None]
    phase_shift_degrees: list[float | None]
    rotation: list[float] | None = None
    shift_angstrom: list[float] | None = None
    micrograph_names: list[str] | None = None
    micrograph_number: list[int] | None = None

    def __len__(self) -> int:
        return len(self.stack_index)


class ParticleRow(Struct, frozen=True, array_like=True):
    """One particle's metadata as the ledger keeps it until the particle stands in a batch."""

    stack_name: str
    stack_index: int
    optics: OpticsWire
    ctf: tuple[float | None, float | None, float | None, float | None]
    rotation: tuple[float, ...] | None = None
    shift_angstrom: tuple[float, float] | None = None
    micrograph_name: str | None = None

    @property
    def identity(self) -> str:
        """The particle's stable name, as `ParticleTable.identities` spells it."""
        return f"{self.stack_index + 1:06d}@{self.stack_name}"


def table_to_wire(table: ParticleTable) -> TableWire:
    """Return the table's columns; groups and names that no row uses are left out."""
    groups, group_index = _used(table.optics_groups, table.optics_group_index)
    stacks, stack_number = _used(table.stack_names, table.stack_number)
    micrographs: list[str] | None = None
    micrograph_number: list[int] | None = None
    if table.micrograph_names is not None:
        micrographs, micrograph_number = _distinct(table.micrograph_names)
    return TableWire(
        optics_groups=[_optics_to_wire(g) for g in groups],
        stack_names=stacks,
        optics_group_index=group_index,
        stack_number=stack_number,
        stack_index=table.stack_index.tolist(),
        defocus_u_angstrom=_nullable(table.defocus_u_angstrom),
        defocus_v_angstrom=_nullable(table.defocus_v_angstrom),
        astigmatism_angle_degrees=_nullable(table.astigmatism_angle_degrees),
        phase_shift_degrees=_nullable(table.phase_shift_degrees),
        rotation=None if table.rotation is None else table.rotation.ravel().tolist(),
        shift_angstrom=None if table.shift_angstrom is None else table.shift_angstrom.ravel().tolist(),
        micrograph_names=micrographs,
        micrograph_number=micrograph_number,
    )


def table_from_wire(wire: TableWire) -> ParticleTable:
    """Return the table.

    Raises
    ------
    TransportError
        Columns of unequal length, or an index that points outside its list.
    """
    n = len(wire)
    return ParticleTable(
        optics_groups=tuple(optics_from_wire(g) for g in wire.optics_groups),
        stack_names=tuple(wire.stack_names),
        optics_group_index=_index("optics_group_index", wire.optics_group_index, n, len(wire.optics_groups)),
        stack_number=_index("stack_number", wire.stack_number, n, len(wire.stack_names)),
        stack_index=_index("stack_index", wire.stack_index, n, np.iinfo(np.int32).max),
        defocus_u_angstrom=_floats("defocus_u_angstrom", wire.defocus_u_angstrom, n),
        defocus_v_angstrom=_floats("defocus_v_angstrom", wire.defocus_v_angstrom, n),
        astigmatism_angle_degrees=_floats("astigmatism_angle_degrees", wire.astigmatism_angle_degrees, n),
        phase_shift_degrees=_floats("phase_shift_degrees", wire.phase_shift_degrees, n),
        rotation=None if wire.rotation is None else _floats("rotation", wire.rotation, 9 * n).reshape(n, 3, 3),
        shift_angstrom=(
            None if wire.shift_angstrom is None else _floats("shift_angstrom", wire.shift_angstrom, 2 * n).reshape(n, 2)
        ),
        micrograph_names=_micrographs(wire, n),
    )


def table_to_rows(table: ParticleTable) -> list[ParticleRow]:
    """Return the table's rows one by one."""
    optics = [_optics_to_wire(g) for g in table.optics_groups]
    columns = zip(
        _nullable(table.defocus_u_angstrom),
        _nullable(table.defocus_v_angstrom),
        _nullable(table.astigmatism_angle_degrees),
        _nullable(table.phase_shift_degrees),
        strict=True,
    )
    rotation, shift, names = table.rotation, table.shift_angstrom, table.micrograph_names
    return [
        ParticleRow(
            stack_name=table.stack_names[table.stack_number[i]],
            stack_index=int(table.stack_index[i]),
            optics=optics[table.optics_group_index[i]],
            ctf=ctf,
            rotation=None if rotation is None else tuple(rotation[i].ravel().tolist()),
            shift_angstrom=None if shift is None else (float(shift[i, 0]), float(shift[i, 1])),
            micrograph_name=None if names is None else names[i],
        )
        for i, ctf in enumerate(columns)
    ]


def table_from_rows(rows: Sequence[ParticleRow]) -> ParticleTable:
    """Return a table of the rows, in order.

    Rows of different manifests may stand together: rotations, shifts and micrograph names are kept only if
    every row has them.
    """
    groups, group_index = _distinct([r.optics for r in rows])
    stacks, stack_number = _distinct([r.stack_name for r in rows])
    ctf = np.array([[math.nan if v is None else v for v in r.ctf] for r in rows], np.float32).reshape(-1, 4)
    rotation = [r.rotation for r in rows if r.rotation is not None]
    shift = [r.shift_angstrom for r in rows if r.shift_angstrom is not None]
    names = [r.micrograph_name for r in rows if r.micrograph_name is not None]
    n = len(rows)
    return ParticleTable(
        optics_groups=tuple(optics_from_wire(g) for g in groups),
        stack_names=tuple(stacks),
        optics_group_index=np.array(group_index, np.int32),
        stack_number=np.array(stack_number, np.int32),
        stack_index=np.array([r.stack_index for r in rows], np.int32),
        defocus_u_angstrom=ctf[:, 0].copy(),
        defocus_v_angstrom=ctf[:, 1].copy(),
        astigmatism_angle_degrees=ctf[:, 2].copy(),
        phase_shift_degrees=ctf[:, 3].copy(),
        rotation=np.array(rotation, np.float32).reshape(n, 3, 3) if n and len(rotation) == n else None,
        shift_angstrom=np.array(shift, np.float32).reshape(n, 2) if n and len(shift) == n else None,
        micrograph_names=tuple(names) if n and len(names) == n else None,
    )


def _optics_to_wire(group: OpticsGroup) -> OpticsWire:
    return OpticsWire(
        group.name,
        group.voltage_kilovolt,
        group.spherical_aberration_millimeter,
        group.amplitude_contrast,
        group.pixel_size_angstrom,
        group.box_size,
    )


def optics_from_wire(wire: OpticsWire) -> OpticsGroup:
    """Return the optics group."""
    return OpticsGroup(
        wire.name,
        wire.voltage_kilovolt,
        wire.spherical_aberration_millimeter,
        wire.amplitude_contrast,
        wire.pixel_size_angstrom,
        wire.box_size,
    )


def _distinct(values: Sequence[_H]) -> tuple[list[_H], list[int]]:
    """Return the distinct values in order of appearance, and each value's place among them."""
    place: dict[_H, int] = {}
    index = [place.setdefault(v, len(place)) for v in values]
    return list(place), index


def _used(values: Sequence[_H], index: NDArray[np.int32]) -> tuple[list[_H], list[int]]:
    return _distinct([values[i] for i in index.tolist()])


def _nullable(column: NDArray[np.float32]) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in column.tolist()]


def _floats(name: str, column: Sequence[float | None], expected: int) -> NDArray[np.float32]:
    if len(column) != expected:
        raise TransportError(
            f"column {name}: expected {expected} values, found {len(column)}; "
            "is the peer a streamrecon of this version?"
        )
    values = np.array([math.nan if v is None else v for v in column], np.float64)
    if (np.abs(values) > _MAX_FLOAT32).any():
        raise TransportError(f"column {name}: expected numbers that float32 can hold, found up to {np.nanmax(values)}")
    return values.astype(np.float32)


def _index(name: str, column: Sequence[int], expected: int, end: int) -> NDArray[np.int32]:
    if len(column) != expected or any(not 0 <= v < end for v in column):
        raise TransportError(
            f"column {name}: expected {expected} values from 0 to {end - 1}, found {len(column)} "
            f"from {min(column, default=0)} to {max(column, default=0)}; "
            "is the peer a streamrecon of this version?"
        )
    return np.array(column, np.int32)


def _micrographs(wire: TableWire, n: int) -> tuple[str, ...] | None:
    if wire.micrograph_names is None or wire.micrograph_number is None:
        return None
    number = _index("micrograph_number", wire.micrograph_number, n, len(wire.micrograph_names))
    return tuple(wire.micrograph_names[i] for i in number.tolist())
