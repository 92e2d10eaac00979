"""Of many like complaints a few are logged: a peer can make us say the same thing a thousand times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 60.0


class Seldom:
    """Says which of many events to log: the first of a kind, and then one a minute, with how many came meanwhile.

    Parameters
    ----------
    seconds : float
    clock : callable
        Seconds that never go back.

    Notes
    -----
    It remembers every kind that it is asked about: give it kinds of ours, never what a peer wrote.
    """

    def __init__(self, seconds: float = _SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._said: dict[str, float] = {}
        self._came: dict[str, int] = {}

    def due(self, kind: str) -> int:
        """Return how many of a kind came since one was logged, this one among them; 0 if it is not to be logged."""
        now = self._clock()
        came = self._came.get(kind, 0) + 1
        if now - self._said.get(kind, -float("inf")) < self._seconds:
            self._came[kind] = came
            return 0
        self._said[kind], self._came[kind] = now, 0
        return came
