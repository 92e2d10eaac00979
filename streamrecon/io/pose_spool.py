"""The poses of a running session, one text row a particle, appended as they are found.

Two files: one with a row for each particle, as it was found first, and one with the newest rows of those that were
visited again (`VisitLog`). No table is held in memory; `PoseSpool.export` makes a STAR file of both at any moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import CheckpointCorrupt
from streamrecon.geometry.orientation import Orientation
from streamrecon.io.append_file import AppendFile, crc32_of
from streamrecon.io.atomic import atomic_path
from streamrecon.io.micrographs import MicrographHealth
from streamrecon.io.star_write import loop_heading, optics_text, pose_texts, row_texts, table_columns, value_texts
from streamrecon.io.turned_rows import turned_rows
from streamrecon.io.visit_log import VisitLog, latest_rows, rows_of
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

_CHUNK_ROWS = 10_000
_VISITS_SUFFIX = ".visits"
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


@dataclass(frozen=True)
class SpoolLength:
    """How long the two files are: what a checkpoint records, and what `PoseSpool.truncate` goes back to.

    Attributes
    ----------
    rows, visits : int
        Bytes ever appended to the table of particles, and to that of visits.
    rows_crc32, visits_crc32 : int or None
        CRC-32 of those bytes; None: not known, and not verified.
    """

    rows: int = 0
    visits: int = 0
    rows_crc32: int | None = None
    visits_crc32: int | None = None


class PoseSpool:
    """Append pose rows to a file and export them as a RELION particle STAR file.

    Parameters
    ----------
    path : Path or str
        Made if it is missing; otherwise appended to. What visits find is beside it, its suffix ``.visits``.
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
        self._rows = AppendFile(self.path)
        try:
            self.visits = VisitLog(self.path.with_suffix(_VISITS_SUFFIX))
        except BaseException:
            self._rows.close()
            raise

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
    def length(self) -> SpoolLength:
        """Length of both files, rows that wait for room included."""
        return SpoolLength(self._rows.n_bytes, self.visits.n_bytes, self._rows.crc32, self.visits.crc32)

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

        The old row stays where it is.

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
            old = self._rows.read(offset, length)
            parts = old.rsplit(b" ", len(pose) + len(_RESULT_COLUMNS))
            if len(old) != length or not old.endswith(b"\n") or len(parts) != 1 + len(pose) + len(_RESULT_COLUMNS):
                raise CheckpointCorrupt(
                    f"{self.path}: expected a row of {length} bytes at {offset}, found another; was it changed?"
                )
            half = parts[1 + len(pose)]
            fields = [parts[0], *(t.encode() for t in pose), half, *(t.encode() for t in result)]
            written.append(b" ".join(fields) + b"\n")
        self.visits.append(written)

    def _write(self, rows: list[bytes]) -> NDArray[np.int64]:
        """Append rows, now or once there is room; return their offsets and lengths, (n, 2)."""
        start = self._rows.append(b"".join(rows))
        lengths = np.array([len(row) for row in rows], np.int64)
        return np.stack([start + np.cumsum(lengths) - lengths, lengths], axis=1)

    def sync(self) -> None:
        """Make everything appended so far durable; a checkpoint that records `length` is durable only after it.

        Raises
        ------
        OSError
            There is no room; nothing is lost meanwhile.
        """
        self._rows.sync()
        self.visits.sync()

    def check(self, length: SpoolLength) -> None:
        """Hold both files against what a checkpoint recorded.

        Raises
        ------
        CheckpointCorrupt
            A file is shorter than that or was altered, or visits were compacted beyond it.
        """
        self._check_rows(length)
        if length.rows:
            self.visits.check(length.visits, length.visits_crc32)

    def truncate(self, length: SpoolLength) -> None:
        """Cut both files back to what a checkpoint recorded; without any row, visits that were compacted go as well.

        Raises
        ------
        CheckpointCorrupt
            As `check` does; both files are as they were.
        """
        crc32 = self._check_rows(length)
        if length.rows:
            self.visits.truncate(length.visits, length.visits_crc32)
        else:
            self.visits.clear()
        self._rows.truncate(length.rows, crc32)

    def _check_rows(self, length: SpoolLength) -> int:
        """Return the CRC-32 of the table of particles, as long as it was."""
        found = self.path.stat().st_size
        if found < length.rows:
            raise CheckpointCorrupt(
                f"{self.path}: expected at least the {length.rows} bytes that the checkpoint recorded, found "
                f"{found}; "
                "resume from an older checkpoint or start a new session"
            )
        with self.path.open("rb") as file:
            crc32 = crc32_of(file, 0, length.rows)
        if length.rows_crc32 not in (None, crc32):
            raise CheckpointCorrupt(
                f"{self.path}: expected the {length.rows} bytes that were written, found others: it was altered; "
                "resume from an older checkpoint or start a new session"
            )
        return crc32

    def export(
        self,
        star_path: Path | str,
        optics_groups: Sequence[OpticsGroup],
        micrographs: Path | None = None,
        orientation: Orientation | None = None,
    ) -> int:
        """Write the rows as a RELION 3.1 STAR file, atomically, and return how many there are.

        A particle that was visited again has several rows; only its last one is exported. ``micrographs`` names a CSV
        file for the means over each micrograph (see `MicrographHealth`). ``orientation`` is how the frame of the poses
        lies to that of the published maps, in which they are written.

        Raises
        ------
        OSError
            There is no room, for the table or for its export.
        """
        self._rows.write_waiting()
        self.visits.write_waiting()
        columns = [*table_columns(has_ctf=self._has_ctf, has_pose=True), *_RESULT_COLUMNS]
        heading = loop_heading("particles", columns)
        health = MicrographHealth(columns)
        written = 0
        with atomic_path(star_path) as temporary, temporary.open("wb") as out:
            out.write((optics_text(optics_groups) + heading).encode("utf-8", "surrogateescape"))
            pixel_size = optics_groups[0].pixel_size_angstrom if optics_groups else 1.0
            rows = turned_rows(self.latest(), orientation or Orientation(), pixel_size, len(_RESULT_COLUMNS))
            for row in rows:
                out.write(row)
                written += 1
                if micrographs is not None:
                    health.add(row)
            out.write(b"\n")
        if micrographs is not None:
            health.write(micrographs)
        return written

    def latest(self) -> Iterator[bytes]:
        """Yield the last row of each particle. Memory: some 30 bytes for each row in both files."""
        with ExitStack() as stack:
            # as they are now, also if visits are compacted meanwhile
            files = [stack.enter_context(self.path.open("rb")), stack.enter_context(self.visits.reading())]
            latest = latest_rows(row for file in files for row in rows_of(file))
            every = (row for file in files for row in rows_of(file))
            # rows that came in between are not looked at
            yield from itertools.compress(every, latest)

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
        rows = self.latest()
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
        """Close the files; the spool can be opened again. Rows that found no room are lost: no checkpoint has them."""
        self._rows.close()
        self.visits.close()


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
