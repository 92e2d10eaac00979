"""A set of batch numbers that stays small: they come nearly in order, so they are kept as ranges."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class BatchIds:
    """Batch numbers as ascending, inclusive, non-adjacent ranges.

    Parameters
    ----------
    ranges : iterable of (first, last)
        As `ranges` returned them.
    """

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for first, last in sorted((first, last) for first, last in ranges):
            if self._ranges and first <= self._ranges[-1][1] + 1:
                self._ranges[-1] = (self._ranges[-1][0], max(last, self._ranges[-1][1]))
            else:
                self._ranges.append((first, last))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges: what a checkpoint stores."""
        return list(self._ranges)

    @property
    def last(self) -> int:
        """Return the highest number, 0 if there is none."""
        return self._ranges[-1][1] if self._ranges else 0

    def __contains__(self, batch_id: int) -> bool:
        at = bisect_right(self._ranges, batch_id, key=lambda r: r[0]) - 1
        return at >= 0 and batch_id <= self._ranges[at][1]

    def __iter__(self) -> Iterator[int]:
        for first, last in self._ranges:
            yield from range(first, last + 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self._ranges)

    def add(self, batch_id: int) -> None:
        """Add one number."""
        if batch_id in self:
            return
        at = bisect_right(self._ranges, batch_id, key=lambda r: r[0])
        first = last = batch_id
        if at < len(self._ranges) and self._ranges[at][0] == batch_id + 1:
            last = self._ranges.pop(at)[1]
        if at > 0 and self._ranges[at - 1][1] == batch_id - 1:
            at -= 1
            first = self._ranges.pop(at)[0]
        self._ranges.insert(at, (first, last))
