"""A series that never grows beyond its limit: when it is full, every other row goes."""

from __future__ import annotations

from typing import TypeAlias

Row: TypeAlias = tuple[float | None, ...]


class History:
    """Rows in the order they came, at most ``limit`` of them, spread evenly over all that came.

    Parameters
    ----------
    columns : tuple of str
        What the entries of a row are; the first one must not fall.
    limit : int
        Rows kept.

    Notes
    -----
    Of all rows those whose number is a multiple of ``stride`` stay, and the newest whatever its number. The curves of a
    three-day session have the same size as those of its first hour.
    """

    def __init__(self, columns: tuple[str, ...], limit: int = 600) -> None:
        self.columns = columns
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.rows: list[Row] = []
        self._stride = 1
        self._count = 0
        self._last_stays = True

    def add(self, row: Row) -> bool:
        """Add a row; one that repeats the first column of the last takes its place. Return whether others had to go."""
        if self.rows and self.rows[-1][0] == row[0]:
            self.rows[-1] = row
            return False
        if not self._last_stays:
            self.rows.pop()
        self.rows.append(row)
        self._last_stays = self._count % self._stride == 0
        self._count += 1
        if len(self.rows) <= self.limit:
            return False
        self.rows = self.rows[::2]
        self._stride *= 2
        self._last_stays = self.rows[-1] is row
        if not self._last_stays:
            self.rows.append(row)
        return True

    def as_json(self) -> dict[str, object]:
        """Return it as the page's script takes it, which adds the rows that follow by the same rule."""
        return {
            "columns": self.columns,
            "rows": self.rows,
            "stride": self._stride,
            "count": self._count,
            "last_stays": self._last_stays,
        }
