"""Writing RELION 3.1+ particle STAR files, row by row, so that a table of any length takes little memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import ManifestMismatch
from streamrecon.geometry.rotation import euler_from_rotation
from streamrecon.io.atomic import atomic_path
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

_CHUNK_ROWS = 10_000
_TABLE_COLUMNS = ("rlnImageName", "rlnMicrographName", "rlnOpticsGroup")
_CTF_COLUMNS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")
_POSE_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")


def write_star(
    path: Path | str,
    table: ParticleTable,
    *,
    rotation: NDArray[np.floating] | None,
    shift_angstrom: NDArray[np.floating] | None,
    half: NDArray[np.integer] | None = None,
    extra_columns: Mapping[str, NDArray[np.generic]] | None = None,
) -> None:
    """Write a table in RELION's layout, atomically.

    Parameters
    ----------
    path : Path or str
    table : ParticleTable, n rows
    rotation : ndarray, (n, 3, 3) or None
    shift_angstrom : ndarray, (n, 2) or None, angstrom
        Both or neither: with None the file has no poses, as after extraction.
    half : ndarray, (n,) or None
        0 becomes rlnRandomSubset 1, 1 becomes 2.
    extra_columns : mapping of str to ndarray (n,), optional
        More columns under their RELION names.

    Notes
    -----
    A STAR file cannot hold an unknown defocus: if any is NaN, the file has no CTF columns.
    """
    extra = dict(extra_columns or {})
    if half is not None:
        extra["rlnRandomSubset"] = np.asarray(half, np.int64) + 1
    columns = [*table_columns(has_ctf=table.has_ctf, has_pose=rotation is not None), *extra]
    with atomic_path(path) as temporary, open_star(temporary) as file:
        file.write(optics_text(table.optics_groups))
        file.write(loop_heading("particles", columns))
        for start in range(0, len(table), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            file.writelines(
                row_texts(
                    table.select(rows),
                    None if rotation is None else rotation[rows],
                    None if shift_angstrom is None else shift_angstrom[rows],
                    {name: values[rows] for name, values in extra.items()},
                    has_ctf=table.has_ctf,
                )
            )
        file.write("\n")


def open_star(path: Path) -> TextIO:
    """Open a text file so that any file name survives: undecodable bytes come out as they went in."""
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="\n")


def table_columns(*, has_ctf: bool, has_pose: bool) -> tuple[str, ...]:
    """Return the names of the columns that `row_texts` writes before the extra ones."""
    return _TABLE_COLUMNS + (_CTF_COLUMNS if has_ctf else ()) + (_POSE_COLUMNS if has_pose else ())


def optics_text(groups: Sequence[OpticsGroup]) -> str:
    """Return the data_optics block; a group's number in the file is its position, from 1."""
    columns = (
        "rlnOpticsGroup",
        "rlnOpticsGroupName",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
        "rlnImagePixelSize",
        "rlnImageSize",
        "rlnImageDimensionality",
    )
    rows = [
        f"{i + 1} {quoted(g.name)} {g.voltage_kilovolt:.6f} {g.spherical_aberration_millimeter:.6f} "
        f"{g.amplitude_contrast:.6f} {g.pixel_size_angstrom:.6f} {g.box_size} 2\n"
        for i, g in enumerate(groups)
    ]
    return "\n# version 30001\n" + loop_heading("optics", columns) + "".join(rows) + "\n\n# version 30001\n"


def loop_heading(block: str, columns: Sequence[str]) -> str:
    """Return ``data_...``, ``loop_`` and the numbered column names."""
    lines = [f"_{name} #{i + 1}" for i, name in enumerate(columns)]
    return "\n".join([f"\ndata_{block}", "", "loop_", *lines, ""])


def row_texts(
    table: ParticleTable,
    rotation: NDArray[np.floating] | None,
    shift_angstrom: NDArray[np.floating] | None,
    extra: Mapping[str, NDArray[np.generic]],
    *,
    has_ctf: bool,
    optics_group_index: NDArray[np.integer] | None = None,
) -> Iterator[str]:
    """Yield one line a particle, newline included, in the order of `table_columns` and then ``extra``."""
    group = table.optics_group_index if optics_group_index is None else optics_group_index
    micrographs = table.micrograph_names or [table.stack_names[s] for s in table.stack_number.tolist()]
    shared: dict[str, str] = {}
    names = [
        f"{i + 1:06d}@{table.stack_names[s]}"
        for i, s in zip(table.stack_index.tolist(), table.stack_number.tolist(), strict=True)
    ]
    texts: list[Iterator[str] | list[str]] = [
        [quoted(name) for name in names],
        [shared.setdefault(m, quoted(m)) for m in micrographs],
        (str(g + 1) for g in group.tolist()),
    ]
    if has_ctf:
        ctf = (
            table.defocus_u_angstrom,
            table.defocus_v_angstrom,
            table.astigmatism_angle_degrees,
            table.phase_shift_degrees,
        )
        texts += [(f"{value:.4f}" for value in column.tolist()) for column in ctf]
    if rotation is not None:
        shift = np.zeros((len(table), 2)) if shift_angstrom is None else shift_angstrom
        texts += pose_texts(rotation, shift)
    texts += [value_texts(values) for values in extra.values()]
    for line in zip(*texts, strict=True):
        yield " ".join(line) + "\n"


def pose_texts(rotation: NDArray[np.floating], shift_angstrom: NDArray[np.floating]) -> list[Iterator[str]]:
    """Return the texts of the pose columns, one iterator a column."""
    pose = np.concatenate([euler_from_rotation(rotation), -np.asarray(shift_angstrom, np.float64)], axis=1)
    return [(f"{value:.6f}" for value in column.tolist()) for column in pose.T]


def value_texts(values: NDArray[np.generic]) -> Iterator[str]:
    """Return the texts of a column."""
    if values.dtype.kind == "f":
        return (f"{value:.6g}" for value in values.tolist())
    return (quoted(str(value)) for value in values.tolist())


def quoted(text: str) -> str:
    """Return a value as a STAR file holds it: in quotation marks where it is empty or has a blank in it.

    Raises
    ------
    ManifestMismatch
        A line break, or blanks together with both quotation marks: no STAR file can hold that.
    """
    if text and not any(c.isspace() for c in text) and text[0] not in "'\"#_$[];":
        return text
    if "\n" in text or "\r" in text or ('"' in text and "'" in text):
        raise ManifestMismatch(
            f"{text!r}: expected a name that a STAR file can hold, found line breaks or both kinds of "
            "quotation marks; "
            "rename the file"
        )
    return f'"{text}"' if '"' not in text else f"'{text}'"
