"""Not too often: after a notice, others of its kind are gathered for a while and told in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamrecon.notices.notice import Notice


@dataclass
class _Kind:
    told_at: float
    held: int = 0
    last: Notice | None = None


class QuietTimes:
    """Bound how often a kind is told: once in ``quiet_seconds``, and nothing is lost silently.

    Parameters
    ----------
    quiet_seconds : float
    """

    def __init__(self, quiet_seconds: float) -> None:
        self._quiet_seconds = quiet_seconds
        self._kinds: dict[str, _Kind] = {}

    def admit(self, notice: Notice, now: float) -> Notice | None:
        """Return the notice if it may be told now; else keep it for `due`."""
        known = self._kinds.get(notice.kind)
        if known is None or (known.held == 0 and now - known.told_at >= self._quiet_seconds):
            self._kinds[notice.kind] = _Kind(now)
            return notice
        known.held += 1
        known.last = notice
        return None

    def due(self, now: float, *, all_of_them: bool = False) -> list[Notice]:
        """Return what was kept and may be told by now, one notice a kind: the last, and how many there were."""
        out = []
        for known in self._kinds.values():
            if known.last is not None and (all_of_them or now - known.told_at >= self._quiet_seconds):
                more = f" ({known.held} such notices since the last one)" if known.held > 1 else ""
                out.append(replace(known.last, text=known.last.text + more))
                known.told_at, known.held, known.last = now, 0, None
        return out
