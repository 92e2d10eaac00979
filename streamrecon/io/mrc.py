"""Reading MRC stacks and maps: a header probe that trusts nothing, and sections by number.

Stacks of a running session may still be growing, may have been cut, and may not be MRC at all; every case
has its own error. Writing is in `streamrecon.io.mrc_write`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import IngestError, StackCorrupt, StackIncomplete, UnsupportedFormat
from streamrecon.io.regular import open_regular

HEADER_BYTES = 1024
# Particles and maps are far smaller; a byte-swapped or foreign header lands far above.
_MAX_SIDE = 32768
_MAX_SECTIONS = 50_000_000
_MAX_EXTENDED_HEADER_BYTES = 1 << 30
_MAX_READ_BYTES = 64 << 20

_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_KNOWN_BUT_UNSUPPORTED = {3: "complex int16", 4: "complex float32", 101: "packed 4 bit"}
ByteOrder = Literal["<", ">"]


@dataclass(frozen=True)
class StackProbe:
    """What the header of an MRC file says, and how long the file really is.

    Attributes
    ----------
    path : Path
    mode : int
        0 (int8), 1 (int16), 2 (float32), 6 (uint16) or 12 (float16).
    byte_order : {"<", ">"}
    nx, ny, nz : int
        Columns, rows and sections.
    header_bytes : int
        Where the pixels start: 1024 and the extended header.
    expected_bytes, actual_bytes : int
    pixel_size_angstrom : float or None
        Along x; None where the header leaves it zero.
    """

    path: Path
    mode: int
    byte_order: ByteOrder
    nx: int
    ny: int
    nz: int
    header_bytes: int
    expected_bytes: int
    actual_bytes: int
    pixel_size_angstrom: float | None

    @property
    def is_complete(self) -> bool:
        """True if the file is exactly as long as its header says."""
        return self.actual_bytes == self.expected_bytes

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The pixels' type as stored."""
        return np.dtype(self.byte_order + _DTYPES[self.mode])

    @property
    def section_bytes(self) -> int:
        """Bytes of one image."""
        return self.nx * self.ny * self.dtype.itemsize


def probe_stack(path: Path | str) -> StackProbe:
    """Read the header of an MRC file, and nothing else.

    Raises
    ------
    StackIncomplete
        The file is empty, shorter than a header, or its header is not filled in yet.
    StackCorrupt
        Not a regular file, or its header makes no sense in either byte order.
    UnsupportedFormat
        A complex or packed mode, or one that MRC2014 does not know.
    IngestError
        The file is gone or may not be read.
    """
    with _open(Path(path)) as descriptor:
        return _probe(descriptor, Path(path))


def check_complete(probe: StackProbe) -> None:
    """Raise StackIncomplete unless the file is exactly as long as its header says.

    A file that is too long counts as still growing too: RELION appends the images first and then counts them.
    """
    if probe.is_complete:
        return
    what = "shorter" if probe.actual_bytes < probe.expected_bytes else "longer"
    raise StackIncomplete(
        f"{probe.path}: {what} than its header says: expected {probe.expected_bytes} bytes for {probe.nz} "
        "sections of "
        f"{probe.ny} x {probe.nx} pixels (mode {probe.mode}), found {probe.actual_bytes}; it is read once "
        "it is whole"
    )


def read_sections(
    path: Path | str,
    indices: Sequence[int] | NDArray[np.integer],
    *,
    signature: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Read some sections of a stack.

    Parameters
    ----------
    path : Path or str
    indices : sequence of int, (n,)
        Zero-based, in any order, repeats allowed. Neighbouring sections are read in one go.
    signature : (int, int) or None
        Size in bytes and time of change in ns that the file must have, before and after it is read; None: whatever
        it has.

    Returns
    -------
    ndarray, (n, ny, nx) float32
        In the order of ``indices``.

    Raises
    ------
    StackIncomplete
        A section lies beyond what the header counts or beyond the end of the file; or the file has another signature.
    StackCorrupt, UnsupportedFormat, IngestError
        As in `probe_stack`.
    """
    path = Path(path)
    wanted = np.asarray(indices, np.int64)
    with _open(path) as descriptor:
        _check_signature(descriptor, path, signature)
        probe = _probe(descriptor, path)
        if len(wanted) and wanted.min() < 0:
            raise IngestError(f"{path}: section {wanted.min()} was asked for; sections count from 0")
        if len(wanted) and wanted.max() >= probe.nz:
            raise StackIncomplete(
                f"{path}: section {wanted.max() + 1} was asked for, the header counts {probe.nz}; either "
                "the stack is "
                "still growing or the STAR/.cs file belongs to another one"
            )
        if len(wanted):
            # before anything is allocated: a header can claim any number of sections
            _check_reach(probe, int(wanted.max()) + 1)
        out = np.empty((len(wanted), probe.ny, probe.nx), np.float32)
        order = np.argsort(wanted, kind="stable")
        distinct, first = np.unique(wanted[order], return_index=True)
        in_order = np.array_equal(distinct, wanted)  # as a rule
        rows_of = np.split(order, first[1:]) if len(distinct) and not in_order else []
        for start, stop in _runs(distinct, max(1, _MAX_READ_BYTES // probe.section_bytes)):
            block = _read_block(descriptor, probe, int(distinct[start]), stop - start)
            with np.errstate(invalid="ignore"):  # pixels that are NaN stay NaN, and are found by who checks the images
                if in_order:
                    out[start:stop] = block
                for i in () if in_order else range(start, stop):
                    out[rows_of[i]] = block[i - start]
        _check_signature(descriptor, path, signature)
    return out


def read_volume(path: Path | str) -> tuple[NDArray[np.float32], float]:
    """Read a map.

    Returns
    -------
    volume : ndarray, (z, y, x) float32
        Axes put in this order whatever the file's own order is.
    voxel_size_angstrom : float

    Raises
    ------
    UnsupportedFormat
        The voxels are not cubes, or the header gives no voxel size.
    StackIncomplete, StackCorrupt, IngestError
        As in `probe_stack` and `read_sections`.
    """
    path = Path(path)
    with _open(path) as descriptor:
        probe = _probe(descriptor, path)
        _check_reach(probe, probe.nz)
        integers = np.frombuffer(os.pread(descriptor, HEADER_BYTES, 0), probe.byte_order + "i4")
    sampling = integers[7:10].astype(np.float64)
    with np.errstate(invalid="ignore"):  # NaN is refused below
        cell = integers[10:13].view(probe.byte_order + "f4").astype(np.float64)
    if (sampling <= 0).any() or not (np.isfinite(cell) & (cell > 0)).all():
        raise UnsupportedFormat(
            f"{path}: expected a voxel size in the header (cell and sampling), found cell {cell.tolist()} "
            "and sampling "
            f"{sampling.tolist()}; set it, e.g. with relion_image_handler --force_header_angpix"
        )
    voxel = cell / sampling
    if np.ptp(voxel) > 1e-3 * voxel[0]:
        raise UnsupportedFormat(
            f"{path}: expected cubic voxels, found {voxel.tolist()} angstrom along x, y, z; resample the map first"
        )
    axes = tuple(integers[16:19].tolist())
    # Many writers leave the axis fields zero and mean the usual order.
    axes = (1, 2, 3) if axes == (0, 0, 0) else axes
    if sorted(axes) != [1, 2, 3]:
        raise StackCorrupt(f"{path}: expected the axes 1, 2, 3 in mapc, mapr, maps, found {axes}; rewrite the map")
    stored = read_sections(path, np.arange(probe.nz))
    # Stored array axes are (section, row, column) = (maps, mapr, mapc); wanted (z, y, x) = (3, 2, 1).
    stored_axes = axes[::-1]
    volume = stored.transpose([stored_axes.index(axis) for axis in (3, 2, 1)])
    # the header's float32 would give 3.5399999618 for 3.54
    return np.ascontiguousarray(volume), round(float(voxel[0]), 6)


@contextmanager
def _open(path: Path) -> Iterator[int]:
    """Open a regular file for reading."""
    try:
        file = open_regular(path, StackCorrupt)
    except FileNotFoundError as error:
        raise IngestError(f"{path}: expected a file, found nothing; it was moved or deleted") from error
    except OSError as error:
        raise IngestError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    with file:
        yield file.fileno()


def _check_signature(descriptor: int, path: Path, expected: tuple[int, int] | None) -> None:
    status = os.fstat(descriptor)
    found = (status.st_size, status.st_mtime_ns)
    if expected is not None and found != expected:
        raise StackIncomplete(
            f"{path}: expected the stack of {expected[0]} bytes changed at {expected[1]} ns, as it was examined, found "
            f"{found[0]} bytes changed at {found[1]} ns; it is read once it is examined again"
        )


def _pread(descriptor: int, path: Path, size: int, offset: int) -> bytes:
    """Read ``size`` bytes or up to the end of the file; os.pread alone may return less."""
    parts = []
    try:
        while size > 0 and (part := os.pread(descriptor, size, offset)):
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
    except OSError as error:
        raise IngestError(f"{path}: reading failed ({error.strerror}); check the file system it lies on") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _probe(descriptor: int, path: Path) -> StackProbe:
    actual = os.fstat(descriptor).st_size
    header = _pread(descriptor, path, HEADER_BYTES, 0)
    if len(header) < HEADER_BYTES:
        raise StackIncomplete(
            f"{path}: expected an MRC header of {HEADER_BYTES} bytes, found {len(header)}; it is read once it has grown"
        )
    if not any(header):
        raise StackIncomplete(
            f"{path}: expected an MRC header, found {HEADER_BYTES} zero bytes (the writer has made room "
            "but not "
            "written yet); it is read once the header is there"
        )
    order = _byte_order(header)
    if order is None:
        fields = np.frombuffer(header, "<i4", 4).tolist()
        raise StackCorrupt(
            f"{path}: expected an MRC header, found nx, ny, nz, mode = {fields} which make no sense in "
            "either byte "
            "order; if this is no MRC file, correct the manifest that names it"
        )
    nx, ny, nz, mode = np.frombuffer(header, order + "i4", 4).tolist()
    if mode not in _DTYPES:
        name = _KNOWN_BUT_UNSUPPORTED.get(mode, "unknown")
        raise UnsupportedFormat(
            f"{path}: expected MRC mode 0, 1, 2, 6 or 12, found mode {mode} ({name}); convert the stack to mode 2"
        )
    if nz == 0:
        raise StackIncomplete(f"{path}: expected images, found a header that counts none; it is read once it has some")
    extended = int(np.frombuffer(header, order + "i4", 1, 92)[0])
    if not 0 <= extended <= _MAX_EXTENDED_HEADER_BYTES:
        raise StackCorrupt(
            f"{path}: expected an extended header of 0 to {_MAX_EXTENDED_HEADER_BYTES} bytes, found "
            f"{extended}; "
            "write the file anew"
        )
    sampling = int(np.frombuffer(header, order + "i4", 1, 28)[0])
    cell = float(np.frombuffer(header, order + "f4", 1, 40)[0])
    has_size = sampling > 0 and np.isfinite(cell) and cell > 0
    start = HEADER_BYTES + extended
    return StackProbe(
        path=path,
        mode=mode,
        byte_order=order,
        nx=nx,
        ny=ny,
        nz=nz,
        header_bytes=start,
        expected_bytes=start + nx * ny * nz * np.dtype(_DTYPES[mode]).itemsize,
        actual_bytes=actual,
        pixel_size_angstrom=round(cell / sampling, 6) if has_size else None,
    )


def _byte_order(header: bytes) -> ByteOrder | None:
    """Return the byte order in which the sizes make sense; the stamp, often wrong, only goes first."""
    orders: tuple[ByteOrder, ByteOrder] = (">", "<") if header[212] == 0x11 else ("<", ">")
    for order in orders:
        nx, ny, nz, mode = np.frombuffer(header, order + "i4", 4).tolist()
        if 0 < nx <= _MAX_SIDE and 0 < ny <= _MAX_SIDE and 0 <= nz <= _MAX_SECTIONS and 0 <= mode < 1024:
            return order
    return None


def _runs(distinct: NDArray[np.int64], longest: int) -> Iterator[tuple[int, int]]:
    """Split sorted section numbers into [start, stop) runs of neighbours, none longer than ``longest``."""
    breaks = np.flatnonzero(np.diff(distinct) != 1) + 1
    edges = [0, *breaks.tolist(), len(distinct)]
    for start, stop in itertools.pairwise(edges):
        for part in range(start, stop, longest):
            yield part, min(part + longest, stop)


def _check_reach(probe: StackProbe, sections: int) -> None:
    """Raise StackIncomplete unless the file is long enough for its first so many sections."""
    needed = probe.header_bytes + sections * probe.section_bytes
    if probe.actual_bytes < needed:
        raise StackIncomplete(
            f"{probe.path}: expected {needed} bytes for {sections} sections, found the end of the file "
            f"at {probe.actual_bytes}; it is read once it is whole"
        )


def _read_block(descriptor: int, probe: StackProbe, first: int, count: int) -> NDArray[np.generic]:
    size = count * probe.section_bytes
    raw = _pread(descriptor, probe.path, size, probe.header_bytes + first * probe.section_bytes)
    if len(raw) < size:
        raise StackIncomplete(
            f"{probe.path}: expected sections {first + 1} to {first + count}, found the end of the file "
            "before them "
            f"({probe.actual_bytes} of {probe.expected_bytes} bytes); it is read once it is whole"
        )
    return np.frombuffer(raw, probe.dtype).reshape(count, probe.ny, probe.nx)
