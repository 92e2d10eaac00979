"""Reading and writing cryoSPARC particle datasets (.cs: a NumPy structured array) as a ParticleTable."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from streamrecon.errors import IngestError, ManifestMismatch, StackIncomplete, UnsupportedFormat
from streamrecon.geometry.rotation import rotation_from_rotation_vector, rotation_vector_from_rotation
from streamrecon.io.atomic import atomic_path
from streamrecon.io.limits import MAX_NUMBER, check_groups
from streamrecon.io.regular import open_regular
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

# NumPy's own limit of 10,000 characters is too small for cryoSPARC's many columns.
_MAX_HEADER_SIZE = 1 << 20
_MAX_CS_BYTES = 4 << 30
_NEEDED = ("blob/path", "blob/idx", "blob/psize_A", "blob/shape")
_CTF = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")
# What is read, by kind of number (as in numpy.dtype.kind) and shape of one row's value.
_TEXT, _INTEGER, _NUMBER = "SU", "iu", "fiu"
_KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "blob/path": (_TEXT, ()),
    "blob/idx": (_INTEGER, ()),
    "blob/shape": (_INTEGER, (2,)),
    "blob/psize_A": (_NUMBER, ()),
    **dict.fromkeys(_CTF, (_NUMBER, ())),
    "ctf/phase_shift_rad": (_NUMBER, ()),
    "ctf/exp_group_id": (_INTEGER, ()),
    "alignments3D/pose": (_NUMBER, (3,)),
    "alignments3D/shift": (_NUMBER, (2,)),
    "alignments3D/psize_A": (_NUMBER, ()),
    "location/micrograph_path": (_TEXT, ()),
}
_POSITIVE = ("blob/psize_A", "alignments3D/psize_A", "blob/shape", "ctf/accel_kv")
_MAX_INTEGER = 2**31 - 1
_CSDAT_MAGIC = b"\x94CSDAT"


def read_cs(path: Path | str) -> ParticleTable:
    """Read a cryoSPARC particle dataset.

    Raises
    ------
    StackIncomplete
        The file is shorter than its header says.
    ManifestMismatch
        Not a particle dataset, a needed column is missing, or the images are not square.
    UnsupportedFormat
        cryoSPARC's compressed CSDAT stream, or a file beyond 4 GiB.
    IngestError
        The file is gone or cannot be read.

    Notes
    -----
    ``alignments3D/shift`` has the sign of RELION's origin, in pixels of ``alignments3D/psize_A``:
    ``shift_angstrom = -shift * psize``. Angles are radians there, degrees here.
    """
    path = Path(path)
    data = _load(path)
    known = set(data.dtype.names or ())
    has_ctf = "ctf/df1_A" in known
    for name in _NEEDED + (_CTF if has_ctf else ()):
        if name not in known:
            raise ManifestMismatch(
                f"{path}: expected a column {name}, found {', '.join(sorted(known)[:8])} ...; export the "
                "particles "
                "together with their blob and ctf fields"
            )
    for name in sorted(known & _KINDS.keys()):
        _check_column(path, name, data[name])
    n = len(data)
    shape = data["blob/shape"]
    if (shape[:, 0] != shape[:, 1]).any():
        row = int(np.flatnonzero(shape[:, 0] != shape[:, 1])[0])
        raise ManifestMismatch(
            f"{path}: expected square images, found {shape[row].tolist()} in row {row + 1}; extract them square"
        )
    names, stack_number = np.unique(data["blob/path"], return_inverse=True)
    groups, group_index = _groups(data, has_ctf)
    check_groups(path, groups, has_ctf=has_ctf)
    unknown = np.full(n, np.nan, np.float32)
    rotation = shift = None
    if "alignments3D/pose" in known:
        rotation = rotation_from_rotation_vector(data["alignments3D/pose"]).astype(np.float32)
    if "alignments3D/shift" in known:
        psize = data["alignments3D/psize_A" if "alignments3D/psize_A" in known else "blob/psize_A"]
        shift = (-data["alignments3D/shift"] * psize[:, None]).astype(np.float32)
    micrographs = None
    if "location/micrograph_path" in known:
        micrographs = tuple(_text(name) for name in data["location/micrograph_path"].tolist())
    return ParticleTable(
        optics_groups=groups,
        stack_names=tuple(_text(name) for name in names.tolist()),
        optics_group_index=group_index.astype(np.int32),
        stack_number=stack_number.reshape(-1).astype(np.int32),
        stack_index=data["blob/idx"].astype(np.int32),
        defocus_u_angstrom=data["ctf/df1_A"].astype(np.float32) if has_ctf else unknown,
        defocus_v_angstrom=data["ctf/df2_A"].astype(np.float32) if has_ctf else unknown,
        astigmatism_angle_degrees=np.rad2deg(_column_or_zero(data, "ctf/df_angle_rad")).astype(np.float32),
        phase_shift_degrees=np.rad2deg(_column_or_zero(data, "ctf/phase_shift_rad")).astype(np.float32),
        rotation=rotation,
        shift_angstrom=shift,
        micrograph_names=micrographs,
    )


def write_cs(
    path: Path | str,
    table: ParticleTable,
    *,
    rotation: NDArray[np.floating] | None = None,
    shift_angstrom: NDArray[np.floating] | None = None,
) -> None:
    """Write a table as a cryoSPARC dataset, atomically; the columns are those that `read_cs` reads.

    ``uid`` is the row's position: unique inside the file, which is all that cryoSPARC asks of an import.
    """
    n = len(table)
    groups = table.optics_groups
    stacks = [_bytes(name) for name in table.stack_names]
    columns: dict[str, NDArray[Any]] = {
        "uid": np.arange(n, dtype="<u8"),
        "blob/path": np.array(stacks)[table.stack_number] if n else np.zeros(0, "S1"),
        "blob/idx": table.stack_index.astype("<u4"),
        "blob/shape": _per_group(table, [g.box_size for g in groups], "<u4")[:, None].repeat(2, axis=1),
        "blob/psize_A": _per_group(table, [g.pixel_size_angstrom for g in groups], "<f4"),
        "blob/sign": np.ones(n, "<f4"),
    }
    if table.has_ctf:
        columns |= {
            "ctf/type": np.full(n, b"spline"),
            "ctf/exp_group_id": table.optics_group_index.astype("<u4"),
            "ctf/accel_kv": _per_group(table, [g.voltage_kilovolt for g in groups], "<f4"),
            "ctf/cs_mm": _per_group(table, [g.spherical_aberration_millimeter for g in groups], "<f4"),
            "ctf/amp_contrast": _per_group(table, [g.amplitude_contrast for g in groups], "<f4"),
            "ctf/df1_A": table.defocus_u_angstrom.astype("<f4"),
            "ctf/df2_A": table.defocus_v_angstrom.astype("<f4"),
            "ctf/df_angle_rad": np.deg2rad(table.astigmatism_angle_degrees).astype("<f4"),
            "ctf/phase_shift_rad": np.deg2rad(table.phase_shift_degrees).astype("<f4"),
        }
    if table.micrograph_names is not None:
        columns["location/micrograph_path"] = np.array([_bytes(m) for m in table.micrograph_names] or [b""])[:n]
    if rotation is not None:
        columns["alignments3D/pose"] = rotation_vector_from_rotation(rotation).astype("<f4")
        columns["alignments3D/psize_A"] = columns["blob/psize_A"]
        pixels = np.zeros((n, 2)) if shift_angstrom is None else -shift_angstrom / columns["blob/psize_A"][:, None]
        columns["alignments3D/shift"] = pixels.astype("<f4")
    data = np.zeros(n, [(name, values.dtype, values.shape[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        data[name] = values
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, data, allow_pickle=False)


def _check_column(path: Path, name: str, values: NDArray[Any]) -> None:
    """Raise ManifestMismatch unless a column holds what its name promises, in every row."""
    kinds, shape = _KINDS[name]
    found = values.dtype
    if found.kind not in kinds or values.shape[1:] != shape:
        raise ManifestMismatch(
            f"{path}: expected a column {name} of kind {'/'.join(kinds)} and shape {shape} a row, found {found} and "
            f"{values.shape[1:]}; export the particles anew"
        )
    if kinds == _TEXT:
        return
    good = np.abs(values) <= MAX_NUMBER if found.kind == "f" else (values >= 0) & (values <= _MAX_INTEGER)
    if name in _POSITIVE:
        good &= values > 0
    if not good.all():
        row = int(np.argwhere(~good)[0][0])
        above = " above zero" if name in _POSITIVE else ""
        raise ManifestMismatch(
            f"{path}: expected finite numbers{above} in column {name}, found {values[row]} in row {row + 1}; "
            "correct or remove the row"
        )


def _load(path: Path) -> NDArray[Any]:
    """Read the whole array, after its header has been held against the file's length."""
    with warnings.catch_warnings():
        # what Python's parser and NumPy say to programmers about a header
        for category in (UserWarning, SyntaxWarning, DeprecationWarning):
            warnings.simplefilter("ignore", category)
        return _load_quietly(path)


def _load_quietly(path: Path) -> NDArray[Any]:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_CS_BYTES:
                raise UnsupportedFormat(
                    f"{path}: expected at most {_MAX_CS_BYTES} bytes, found {size}; split the dataset"
                )
            magic = file.read(6)
            if magic == _CSDAT_MAGIC:
                raise UnsupportedFormat(
                    f"{path}: expected a NumPy array, found cryoSPARC's compressed CSDAT stream; export "
                    "the dataset "
                    "with cryosparc-tools, Dataset.save(format=NUMPY_FORMAT)"
                )
            if len(magic) < 6:
                raise StackIncomplete(f"{path}: expected a dataset, found {size} bytes; it is read once it has grown")
            file.seek(0)
            shape, _, dtype = _read_header(file)
            if len(shape) != 1 or dtype.names is None or dtype.hasobject:
                raise ManifestMismatch(
                    f"{path}: expected a one-dimensional structured array without Python objects, found "
                    f"shape {shape} "
                    f"and type {dtype}; export the particles anew"
                )
            expected = file.tell() + int(np.prod(shape)) * dtype.itemsize
            if size != expected:
                raise StackIncomplete(
                    f"{path}: expected {expected} bytes for {shape[0]} particles, found "
                    f"{size}; it is "
                    "read once it is whole"
                )
            file.seek(0)
            data: NDArray[Any] = np.load(file, allow_pickle=False, max_header_size=_MAX_HEADER_SIZE)
    except OSError as error:
        raise IngestError(f"{path}: cannot be read ({error.strerror}); was it moved or deleted?") from error
    except ValueError as error:
        raise ManifestMismatch(f"{path}: expected a NumPy structured array, found {error}; remove the file") from error
    return data


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    try:
        return read(file, max_header_size=_MAX_HEADER_SIZE)
    except (SyntaxError, TokenError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError) as error:
        # what Python's parser of literals, and NumPy's of types, make of a header that is none
        raise ValueError(f"a header that cannot be read ({type(error).__name__}: {error})") from error


def _groups(data: NDArray[Any], has_ctf: bool) -> tuple[tuple[OpticsGroup, ...], NDArray[np.int64]]:
    """Make one group per distinct microscope setting, pixel size and box."""
    names = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast") if has_ctf else ()
    ctf = [data[name].astype(np.float64) for name in names] or [np.zeros(len(data))] * 3
    # The numbers are stored as float32: 1.31 would come out as 1.309999942779541.
    ctf = [np.round(values, 6) for values in ctf]
    pixel = np.round(data["blob/psize_A"].astype(np.float64), 6)
    box = data["blob/shape"].reshape(len(data), 2)[:, 0].astype(np.float64)
    experiment = _column_or_zero(data, "ctf/exp_group_id")
    rows = np.stack([*ctf, pixel, box, experiment], axis=1)
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    groups = tuple(
        OpticsGroup(f"exp_group_{int(number)}", voltage, aberration, contrast, size, int(side))
        for voltage, aberration, contrast, size, side, number in distinct.tolist()
    )
    return groups, inverse.reshape(-1)


def _column_or_zero(data: NDArray[Any], name: str) -> NDArray[np.float64]:
    if name not in (data.dtype.names or ()):
        return np.zeros(len(data))
    return np.asarray(data[name], np.float64)


def _per_group(table: ParticleTable, values: list[float] | list[int], dtype: str) -> NDArray[Any]:
    return np.array(values, dtype)[table.optics_group_index]


def _text(value: bytes | str) -> str:
    """Return a path as text; a leading ``>`` only marks it as relative to the project."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    return text.removeprefix(">")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
