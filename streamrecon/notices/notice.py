"""What is told: one sentence of one kind about one session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from streamrecon.config.notify import EventKind

# what a reason from elsewhere (a path, another program's message) may add to a chat
_MOST_CHARACTERS = 1000


@dataclass(frozen=True)
class Notice:
    """One thing worth telling.

    Attributes
    ----------
    kind : str
        As in ``notify.events``.
    session : str
        Name of the session.
    text : str
        A sentence or two; see `title` for where there is room for one line only.
    at : float, seconds
        Unix time.
    """

    kind: EventKind
    session: str
    text: str
    at: float

    @property
    def title(self) -> str:
        """Return one line without control characters, fit for a mail's subject."""
        return _one_line(f"{self.session}: {self.body}", 150)

    @property
    def body(self) -> str:
        """Return the text, bounded and without control characters."""
        return _one_line(self.text, _MOST_CHARACTERS)

    @property
    def time(self) -> str:
        """Return when, in UTC, as ISO 8601."""
        return datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")


def _one_line(text: str, most: int) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
