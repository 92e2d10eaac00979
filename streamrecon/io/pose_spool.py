"""The poses of a running session, one text row a particle, appended as they are found.

The file only ever grows (or is cut back to what a checkpoint vouches for), so a session of millions of
particles needs no table in memory; `PoseSpool.export` makes a STAR file out of it at any moment.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import CheckpointCorrupt
from streamrecon.io.atomic import atomic_path
from streamrecon.io.star_write import loop_heading, optics_text, row_texts, table_columns
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

_CHUNK_ROWS = 10_000
_RESULT_COLUMNS = (
    "rlnRandomSubset",
    "rlnMaxValueProbDistribution",
    "rlnNrOfSignificantSamples",
    "rlnLogLikeliContribution",
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
    """

    def __init__(self, path: Path | str, *, has_ctf: bool = True) -> None:
        self.path = Path(path)
        self._has_ctf = has_ctf
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("ab")

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
        """Length of the file: what a checkpoint records and `truncate` goes back to."""
        return self._file.tell()

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
        optics_group_index: NDArray[np.integer] | None = None,
    ) -> int:
        """Append one row a particle and hand them to the operating system.

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
        optics_group_index : ndarray, (n,), optional
            Into the groups that will be given to `export`; the table's own index if left out.

        Returns
        -------
        int
            The file's new length in bytes.
        """
        samples = np.maximum(1, np.rint(effective_sample_size)).astype(np.int64)
        results = (np.asarray(half, np.int64) + 1, pose_weight, samples, log_evidence)
        rows = row_texts(
            table,
            rotation,
            shift_angstrom,
            dict(zip(_RESULT_COLUMNS, results, strict=True)),
            has_ctf=self._has_ctf,
            optics_group_index=optics_group_index,
        )
        self._file.write("".join(rows).encode("utf-8", "surrogateescape"))
        self._file.flush()
        return self.n_bytes

    def sync(self) -> None:
        """Make everything appended so far durable; call it before a checkpoint records `n_bytes`."""
        os.fsync(self._file.fileno())

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
        self._file.truncate(n_bytes)
        self._file.seek(n_bytes)
        self.sync()

    def export(self, star_path: Path | str, optics_groups: Sequence[OpticsGroup]) -> int:
        """Write the rows as a RELION 3.1 STAR file, atomically, and return how many there are.

        A particle that was visited again has several rows; only its last one is exported. Memory: some 30
        bytes a row.
        """
        latest = self._latest_rows()
        heading = loop_heading("particles", [*table_columns(has_ctf=self._has_ctf, has_pose=True), *_RESULT_COLUMNS])
        with atomic_path(star_path) as temporary, temporary.open("wb") as out:
            out.write((optics_text(optics_groups) + heading).encode("utf-8", "surrogateescape"))
            for number, row in enumerate(self._rows()):
                if number < len(latest) and latest[number]:
                    out.write(row)
            out.write(b"\n")
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
        """Close the file; the spool can be opened again."""
        self._file.close()

    def _rows(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from file

    def _latest_rows(self) -> NDArray[np.bool_]:
        """Return a mask over the rows: True for the last row of each particle."""
        hashes = np.fromiter((_particle_hash(row) for row in self._rows()), np.uint64)
        _, from_the_end = np.unique(hashes[::-1], return_index=True)
        latest = np.zeros(len(hashes), bool)
        latest[len(hashes) - 1 - from_the_end] = True
        return latest


def _particle_hash(row: bytes) -> int:
    """Hash a row's first value, the image name; 64 bits: one collision in 10^7 sessions of 10^6 rows."""
    end = row.find(row[:1], 1) if row[:1] in (b'"', b"'") else row.find(b" ")
    return int.from_bytes(hashlib.blake2b(row[:end], digest_size=8).digest(), "little")
