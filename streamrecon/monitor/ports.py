"""Ports of this host for programs that are about to be started."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000  # below are the well-known services
_MOST_TRIED = 1000


def unused_ports(count: int) -> list[int]:
    """Return different loopback ports that were free a moment ago.

    Parameters
    ----------
    count : int

    Notes
    -----
    They lie below the ports that the kernel gives away by itself, to outgoing connections and to whoever binds port
    0: in the seconds until a program listens, or is started again, one of those would now and then be taken.
    """
    with ExitStack() as stack:
        found: list[int] = []
        low = _first_given_away()
        # two programs that look at the same time hardly ever come upon the same number
        for port in random.SystemRandom().sample(
            range(_LOWEST, max(_LOWEST, low)), min(max(0, low - _LOWEST), _MOST_TRIED)
        ):
            if len(found) == count:
                return found
            if _binds(stack.enter_context(socket.socket()), port):
                found.append(port)
        while len(found) < count:  # no room below: one of the kernel's own
            sock = stack.enter_context(socket.socket())
            _binds(sock, 0)
            found.append(sock.getsockname()[1])
        return found


def _first_given_away() -> int:
    try:
        return int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _binds(sock: socket.socket, port: int) -> bool:
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
