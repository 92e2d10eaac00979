"""The poses of a running session, one text row a particle, appended as they are found.

The file only ever grows (or is cut back to what a checkpoint vouches for), so a session of millions of
particles needs no table in memory; `PoseSpool.export` makes a STAR file out of it at any moment.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import CheckpointCorrupt
from streamrecon.geometry.orientation import Orientation
from streamrecon.io.atomic import atomic_path
from streamrecon.io.micrographs import MicrographHealth
from streamrecon.io.star_write import loop_heading, optics_text, pose_texts, row_texts, table_columns, value_texts
from streamrecon.io.turned_rows import turned_rows
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

_CHUNK_ROWS = 10_000
# A disk without room: it may have some again.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RESULT_COLUMNS = (
    "rlnRandomSubset",
    "rlnMaxValueProbDistribution",
    "rlnNrOfSignificantSamples",
    "rlnLogLikeliContribution",
    "rlnParticleFigureOfMerit",
)


@dataclass(frozen=True)
class PoseRows:
    """Some rows' numbers, one a particle.

    Attributes
    ----------
    defocus_angstrom : ndarray, (n,) float64
        Mean of u and v; NaN in a table without CTF.
    euler_degrees : ndarray, (n, 3) float64
        rot, tilt, psi.
    """

    defocus_angstrom: NDArray[np.float64]
    euler_degrees: NDArray[np.float64]


class PoseSpool:
    """Append pose rows to a file and export them as a RELION particle STAR file.

    Parameters
    ----------
    path : Path or str
        Made if it is missing; otherwise appended to.
    has_ctf : bool
        False for particles without CTF: the rows have no defocus columns. The same for a file's whole life.

    Notes
    -----
    Rows that find no room on the disk wait in memory, and are written before those that come later. Who must not
    go on without them calls `sync`, which raises until they are all on disk.
    """

    def __init__(self, path: Path | str, *, has_ctf: bool = True) -> None:
        self.path = Path(path)
        self._has_ctf = has_ctf
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # not buffered: after a failed write it has to be known which bytes are in the file
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._closed = False
        self._written = os.fstat(self._descriptor).st_size
        self._waiting = b""
        self._lock = threading.Lock()  # a checkpoint is made durable in a thread of its own

    def __enter__(self) -> PoseSpool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def n_bytes(self) -> int:
        """Length of the table: what a checkpoint records and `truncate` goes back to."""
        with self._lock:
            return self._written + len(self._waiting)

    def append(
        self,
        table: ParticleTable,
        *,
        rotation: NDArray[np.floating],
        shift_angstrom: NDArray[np.floating],
        half: NDArray[np.integer],
        pose_weight: NDArray[np.floating],
        effective_sample_size: NDArray[np.floating],
        log_evidence: NDArray[np.floating],
        inlier: NDArray[np.floating] | None = None,
        optics_group_index: NDArray[np.integer] | None = None,
    ) -> NDArray[np.int64]:
        """Append one row a particle and hand them to the operating system, now or once there is room.

        Parameters
        ----------
        table : ParticleTable, n rows
        rotation : ndarray, (n, 3, 3)
        shift_angstrom : ndarray, (n, 2), angstrom
        half : ndarray, (n,), 0 or 1
        pose_weight : ndarray, (n,)
            Posterior weight of this pose: rlnMaxValueProbDistribution.
        effective_sample_size : ndarray, (n,)
            rlnNrOfSignificantSamples, rounded, at least 1.
        log_evidence : ndarray, (n,)
            rlnLogLikeliContribution.
        inlier : ndarray, (n,), optional
            rlnParticleFigureOfMerit: the probability that the map explains the image; 1 if left out.
        optics_group_index : ndarray, (n,), optional
            Into the groups that will be given to `export`; the table's own index if left out.

        Returns
        -------
        ndarray, (n, 2) int64
            Offset and length, bytes, of each particle's row: what `update` finds it by.
        """
        results = (
            np.asarray(half, np.int64) + 1,
            *_results(pose_weight, effective_sample_size, log_evidence, inlier),
        )
        rows = row_texts(
            table,
            rotation,
            shift_angstrom,
            dict(zip(_RESULT_COLUMNS, results, strict=True)),
            has_ctf=self._has_ctf,
            optics_group_index=optics_group_index,
        )
        return self._write([row.encode("utf-8", "surrogateescape") for row in rows])

    def update(
        self,
        rows: NDArray[np.integer],
        *,
        rotation: NDArray[np.floating],
        shift_angstrom: NDArray[np.floating],
        pose_weight: NDArray[np.floating],
        effective_sample_size: NDArray[np.floating],
        log_evidence: NDArray[np.floating],
        inlier: NDArray[np.floating] | None = None,
    ) -> None:
        """Append a new row for particles that were visited again: the old one with another pose.

        The old row stays where it is, so that the table can be cut back to any length it had.

        Parameters
        ----------
        rows : ndarray, (n, 2)
            As `append` returned them.

        Raises
        ------
        CheckpointCorrupt
            There is no such row.
        """
        poses = zip(*pose_texts(rotation, shift_angstrom), strict=True)
        results = _results(pose_weight, effective_sample_size, log_evidence, inlier)
        new = zip(*(value_texts(values) for values in results), strict=True)
        written = []
        for (offset, length), pose, result in zip(rows.tolist(), poses, new, strict=True):
            old = self._read(offset, length)
            parts = old.rsplit(b" ", len(pose) + len(_RESULT_COLUMNS))
            if len(old) != length or not old.endswith(b"\n") or len(parts) != 1 + len(pose) + len(_RESULT_COLUMNS):
                raise CheckpointCorrupt(
                    f"{self.path}: expected a row of {length} bytes at {offset}, found another; was it changed?"
                )
            half = parts[1 + len(pose)]
            fields = [parts[0], *(t.encode() for t in pose), half, *(t.encode() for t in result)]
            written.append(b" ".join(fields) + b"\n")
        self._write(written)

    def _write(self, rows: list[bytes]) -> NDArray[np.int64]:
        """Append rows, now or once there is room; return their offsets and lengths, (n, 2)."""
        start = self.n_bytes
        with self._lock:
            self._waiting += b"".join(rows)
        try:
            self._write_waiting()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        lengths = np.array([len(row) for row in rows], np.int64)
        return np.stack([start + np.cumsum(lengths) - lengths, lengths], axis=1)

    def _read(self, offset: int, length: int) -> bytes:
        """Return bytes of the table, on the disk or waiting for it."""
        with self._lock:
            stored = max(0, min(length, self._written - offset))
            found = os.pread(self._descriptor, stored, offset) if stored else b""
            start = max(0, offset - self._written)
            return found + self._waiting[start : start + length - stored]

    def sync(self) -> None:
        """Make everything appended so far durable; a checkpoint that records `n_bytes` is durable only after it.

        Raises
        ------
        OSError
            There is no room; nothing is lost meanwhile.
        """
        self._write_waiting()
        os.fsync(self._descriptor)

    def truncate(self, n_bytes: int) -> None:
        """Cut the file back to the length that a checkpoint recorded.

        Raises
        ------
        CheckpointCorrupt
            The file is shorter than that.
        """
        found = self.path.stat().st_size
        if found < n_bytes:
            raise CheckpointCorrupt(
                f"{self.path}: expected at least the {n_bytes} bytes that the checkpoint recorded, found "
                f"{found}; "
                "resume from an older checkpoint or start a new session"
            )
        os.ftruncate(self._descriptor, n_bytes)
        with self._lock:
            self._written, self._waiting = n_bytes, b""
        self.sync()

    def export(
        self,
        star_path: Path | str,
        optics_groups: Sequence[OpticsGroup],
        micrographs: Path | None = None,
        orientation: Orientation | None = None,
    ) -> int:
        """Write the rows as a RELION 3.1 STAR file, atomically, and return how many there are.

        A particle that was visited again has several rows; only its last one is exported. Memory: some 30
        bytes a row. ``micrographs`` names a CSV file for the means over each micrograph (see `MicrographHealth`).
        ``orientation`` is how the frame of the poses lies to that of the published maps, in which they are written.

        Raises
        ------
        OSError
            There is no room, for the table or for its export.
        """
        self._write_waiting()
        latest = self._latest_rows()
        columns = [*table_columns(has_ctf=self._has_ctf, has_pose=True), *_RESULT_COLUMNS]
        heading = loop_heading("particles", columns)
        health = MicrographHealth(columns)
        with atomic_path(star_path) as temporary, temporary.open("wb") as out:
            out.write((optics_text(optics_groups) + heading).encode("utf-8", "surrogateescape"))
            rows = (row for number, row in enumerate(self._rows()) if number < len(latest) and latest[number])
            pixel_size = optics_groups[0].pixel_size_angstrom if optics_groups else 1.0
            for row in turned_rows(rows, orientation or Orientation(), pixel_size, len(_RESULT_COLUMNS)):
                out.write(row)
                if micrographs is not None:
                    health.add(row)
            out.write(b"\n")
        if micrographs is not None:
            health.write(micrographs)
        return int(latest.sum())

    def chunks(self) -> Iterator[PoseRows]:
        """Yield the numbers of each particle's last row, some thousand rows at a time.

        Raises
        ------
        CheckpointCorrupt
            A row is not one of ours.
        """
        # the names before them may hold blanks, the numbers do not: count from the end
        n_ctf = 4 if self._has_ctf else 0
        n_numbers = 1 + n_ctf + 5 + len(_RESULT_COLUMNS)
        latest = self._latest_rows()
        rows = (row for number, row in enumerate(self._rows()) if number < len(latest) and latest[number])
        while part := list(itertools.islice(rows, _CHUNK_ROWS)):
            try:
                values = np.array([row.rsplit(None, n_numbers)[1:] for row in part], np.float64)  # (n, n_numbers)
            except ValueError as error:
                raise CheckpointCorrupt(
                    f"{self.path}: expected rows that end in {n_numbers} numbers, found others ({error}); resume from "
                    "an older checkpoint or start a new session"
                ) from error
            yield PoseRows(
                defocus_angstrom=values[:, 1:3].mean(axis=1) if n_ctf else np.full(len(values), np.nan),
                euler_degrees=values[:, 1 + n_ctf : 4 + n_ctf],
            )

    def close(self) -> None:
        """Close the file; the spool can be opened again. Rows that found no room are lost: no checkpoint has them."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

    def _write_waiting(self) -> None:
        with self._lock:
            while self._waiting:
                written = os.write(self._descriptor, self._waiting)
                self._written, self._waiting = self._written + written, self._waiting[written:]

    def _rows(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            # on a full disk the last row may be there in part; the rest of it waits in memory
            yield from (row for row in file if row.endswith(b"\n"))

    def _latest_rows(self) -> NDArray[np.bool_]:
        """Return a mask over the rows: True for the last row of each particle."""
        hashes = np.fromiter((_particle_hash(row) for row in self._rows()), np.uint64)
        _, from_the_end = np.unique(hashes[::-1], return_index=True)
        latest = np.zeros(len(hashes), bool)
        latest[len(hashes) - 1 - from_the_end] = True
        return latest


def _results(
    pose_weight: NDArray[np.floating],
    effective_sample_size: NDArray[np.floating],
    log_evidence: NDArray[np.floating],
    inlier: NDArray[np.floating] | None,
) -> tuple[NDArray[np.generic], ...]:
    """Return the columns that a visit changes beside the pose, in the order of `_RESULT_COLUMNS` from the second on."""
    samples = np.maximum(1, np.rint(effective_sample_size)).astype(np.int64)
    merit = np.ones(len(samples)) if inlier is None else inlier
    return np.asarray(pose_weight), samples, np.asarray(log_evidence), np.asarray(merit)


def _particle_hash(row: bytes) -> int:
    """Hash a row's first value, the image name; 64 bits: one collision in 10^7 sessions of 10^6 rows."""
    end = row.find(row[:1], 1) if row[:1] in (b'"', b"'") else row.find(b" ")
    return int.from_bytes(hashlib.blake2b(row[:end], digest_size=8).digest(), "little")
