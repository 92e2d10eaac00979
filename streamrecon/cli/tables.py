"""Tables for people that more than one verb prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from streamrecon.ingest.ledger_schema import QuarantineEntry


def quarantine_table(entries: Sequence[QuarantineEntry]) -> Table:
    """Return what was set aside, one line an entry."""
    table = Table("name", "kind", "since", "dismissed", "reason", title="Quarantine", title_justify="left")
    for e in entries:
        name = e.identity or e.path
        dismissed = "" if e.dismissed_at is None else clock(e.dismissed_at)
        table.add_row(escape(name), e.kind, clock(e.at), dismissed, escape(e.reason))
    return table


def clock(at: float) -> str:
    """Return a Unix time as this host's people read it."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """Return a duration in the largest unit that fits."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
