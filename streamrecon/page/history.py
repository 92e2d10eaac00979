"""A series that never grows beyond its limit: when it is full, every other row but the newest goes."""

from __future__ import annotations

from typing import TypeAlias

Row: TypeAlias = tuple[float | None, ...]


class History:
    """Rows in the order they came, at most ``limit`` of them, spread over the whole time.

    Parameters
    ----------
    columns : tuple of str
        What the entries of a row are; the first one must not fall.
    limit : int
        Rows kept; 4 at least.

    Notes
    -----
    The curves of a three-day session have the same size as those of its first hour.
    """

    def __init__(self, columns: tuple[str, ...], limit: int = 600) -> None:
        self.columns = columns
        self.limit = limit
        self.rows: list[Row] = []

    def add(self, row: Row) -> bool:
        """Add a row; one that repeats the first column of the last takes its place. Return whether rows had to go."""
        if self.rows and self.rows[-1][0] == row[0]:
            self.rows[-1] = row
            return False
        thin = len(self.rows) >= self.limit
        if thin:
            self.rows = [*self.rows[:-1:2], self.rows[-1]]
        self.rows.append(row)
        return thin

    def clear(self) -> None:
        """Forget everything."""
        self.rows = []

    def as_json(self) -> dict[str, object]:
        """Return it as the page's script takes it."""
        return {"columns": self.columns, "limit": self.limit, "rows": self.rows}
