"""How the particles of each micrograph fare: means over the rows of a pose table, one line a micrograph."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.io.atomic import atomic_path

HEADING = ("micrograph", "particles", "mean_log_evidence", "mean_effective_sample_size", "inlier_share")


class MicrographHealth:
    """Adds up what rows say; memory: some 200 bytes a micrograph.

    Parameters
    ----------
    columns : sequence of str
        Names of a row's columns; the second is the micrograph.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._tail = len(columns) - 2
        self._at = [
            columns.index(name) - 2
            for name in ("rlnLogLikeliContribution", "rlnNrOfSignificantSamples", "rlnParticleFigureOfMerit")
        ]
        self._sums: dict[bytes, NDArray[np.float64]] = {}

    def add(self, row: bytes) -> None:
        """Take in a particle's row."""
        names, *tail = row.rsplit(b" ", self._tail)
        values = [1.0, *(float(tail[i]) for i in self._at)]
        micrograph = names[_end_of_value(names) + 1 :].strip(names[-1:] if names[-1:] in (b'"', b"'") else None)
        self._sums[micrograph] = self._sums.get(micrograph, np.zeros(4)) + values

    def write(self, path: Path) -> None:
        """Write a CSV file, atomically, in the order in which micrographs came."""
        with atomic_path(path) as temporary, temporary.open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:  # fmt: skip
            out = csv.writer(file, lineterminator="\n")
            out.writerow(HEADING)
            for name, (n, *sums) in self._sums.items():
                means = [f"{value / n:.4g}" for value in sums]
                out.writerow([name.decode("utf-8", "surrogateescape"), int(n), *means])


def _end_of_value(text: bytes) -> int:
    """Return where the first value of a row ends: its closing quotation mark, or the blank behind it."""
    if text[:1] in (b'"', b"'"):
        return text.index(text[:1], 1) + 1
    return text.index(b" ")
