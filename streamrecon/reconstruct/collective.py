"""One reconstruction on several processes, a device each: what they exchange, and who works on which images.

All of them (the ranks) hold the same engine and are given the same batches. Each poses its share of the images and
inserts them into its own sums; what is learnt of single images is joined, sums are added up when the map is solved, and
everything else is worked out by all alike. One process alone is the case of one rank, and exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array

_Rows = TypeVar("_Rows", bound=Array)


class Collective(Protocol):
    """How the ranks exchange arrays. Each call is made by all of them, in the same order.

    Attributes
    ----------
    rank, size : int
        This process's number, from 0, and how many there are.
    """

    rank: int
    size: int

    def gather(self, arrays: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        """Return every rank's host arrays, by rank; good until the next call."""

    def sum(self, array: Array) -> Array:
        """Return the sum of every rank's array of the backend, the same bits on each; the input stays as it is."""


class Alone:
    """No other process."""

    rank = 0
    size = 1

    def gather(self, arrays: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        """Return the arrays themselves."""
        return [list(arrays)]

    def sum(self, array: Array) -> Array:
        """Return the array itself."""
        return array


ALONE = Alone()


def agreed(collective: Collective, array: NDArray[Any]) -> NDArray[Any]:
    """Return rank 0's array on all: what decisions are taken by must be the same to the bit."""
    if collective.size == 1:
        return array
    return np.array(collective.gather([array])[0][0])


class Share:
    """Which of a batch's images this rank works on.

    Parameters
    ----------
    collective : Collective
    n : int
        Images of the whole batch.

    Attributes
    ----------
    n : int
    rows : slice
        Every size-th: so each rank has as many images of either half, and of the probed ones, as any other. Of a
        batch with fewer images than there are ranks every rank works on all, and what rank 0 finds counts.
    counts : bool
        Whether what this rank inserts is to be in the sums.

    Notes
    -----
    Random numbers are drawn for the whole batch, and `own` takes this rank's: an image has the same ones wherever it
    is worked on.
    """

    def __init__(self, collective: Collective, n: int) -> None:
        self._collective = collective
        self.n = n
        self._whole = n < collective.size
        self.rows = slice(None) if self._whole or collective.size == 1 else slice(collective.rank, n, collective.size)
        self.counts = not self._whole or collective.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is one rank only."""
        return self._collective.size == 1

    @property
    def index(self) -> NDArray[np.int64]:
        """Return the numbers of this rank's images."""
        return np.arange(self.n)[self.rows]

    def of(self, count: int) -> int:
        """Return how many of the batch's first ``count`` images are this rank's; they are its first."""
        return len(range(count)[self.rows])

    def own(self, array: _Rows, axis: int = 0) -> _Rows:
        """Return this rank's rows of a host array."""
        if self._collective.size == 1:
            return array
        own: _Rows = np.ascontiguousarray(array[(slice(None),) * axis + (self.rows,)])  # type: ignore[assignment]
        return own

    def join(self, *parts: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the rows of all ranks in the batch's order.

        Parameters
        ----------
        parts : ndarray, (n_own, ...), on the host
            This rank's rows, or the first of them if all ranks leave out the images beyond the same one.
        """
        size = self._collective.size
        if size == 1:
            return list(parts)
        everybody = self._collective.gather(parts)
        if self._whole:
            return [np.array(part) for part in everybody[0]]
        return [_interleaved([rank[i] for rank in everybody]) for i in range(len(parts))]


def _interleaved(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return row r, r + size, ... from part r."""
    like = max(parts, key=len)
    whole = np.empty((sum(map(len, parts)), *like.shape[1:]), like.dtype)
    for rank, part in enumerate(parts):
        if len(part):
            whole[rank :: len(parts)] = part
    return whole
