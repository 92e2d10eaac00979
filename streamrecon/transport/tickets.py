"""Tickets of the control socket: each is good for one command, from one connection, for a while."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

SECONDS = 30.0
MOST = 1000


class Tickets:
    """Those that are out; random, so that none of an earlier run of the daemon is among them.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._out: dict[str, tuple[bytes, float]] = {}

    def issue(self, route: bytes) -> str:
        """Return a new ticket for a connection; the oldest one falls away where too many are out."""
        while len(self._out) >= MOST:
            del self._out[next(iter(self._out))]
        ticket = secrets.token_hex(16)
        self._out[ticket] = (route, self._clock() + SECONDS)
        return ticket

    def redeem(self, ticket: str, route: bytes) -> bool:
        """Use a ticket up; return True if it was good.

        One that another connection holds stays good for that: whoever listens cannot spend it.
        """
        holder, until = self._out.get(ticket, (b"", 0.0))
        if holder != route or ticket not in self._out:
            return False
        del self._out[ticket]
        return self._clock() < until
