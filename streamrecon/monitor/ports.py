"""Ports of this host for programs that are about to be started."""

from __future__ import annotations

import atexit
import random
import socket
import threading
from collections import deque
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000  # below are the well-known services
_MOST_TRIED = 1000
_MARK = "\0streamrecon-port-{}"  # a name in Linux's abstract namespace of sockets
_MOST_HELD = 64
_held: deque[socket.socket] = deque()
_lock = threading.Lock()


def unused_ports(count: int, *, avoid: Collection[int] = ()) -> list[int]:
    """Return different loopback ports that were free a moment ago.

    Parameters
    ----------
    count : int
    avoid : collection of int
        Not these: they are to be bound by somebody else who may not have begun.

    Notes
    -----
    They lie below the ports that the kernel gives away by itself, to outgoing connections and to whoever binds port
    0: in the seconds until a program listens, or is started again, one of those would now and then be taken. What is
    given away here is marked by a socket in Linux's abstract namespace, held while this process lives (the last 64),
    so that two sessions which start at the same time are not given the same. One that is marked is not even tried: for
    that moment whom it was given to could not bind it.
    """
    found: list[int] = []
    low = _first_given_away()
    with ExitStack() as stack:
        tried = range(_LOWEST, max(_LOWEST, low))
        for port in random.SystemRandom().sample(tried, min(len(tried), _MOST_TRIED)):
            if len(found) == count:
                break
            if port in avoid or (mark := _mark(port)) is None:
                continue
            if _binds(stack.enter_context(socket.socket()), port):
                found.append(port)
                _hold(mark)
            else:
                mark.close()
        while len(found) < count:  # no room below: one of the kernel's own
            sock = stack.enter_context(socket.socket())
            _binds(sock, 0)
            found.append(sock.getsockname()[1])
    return found


def port_of(endpoint: str) -> int:
    """Return the port of ``host:port`` or ``tcp://host:port``; 0 if it names none."""
    text = endpoint.rpartition(":")[2]
    return int(text) if text.isdecimal() else 0


def _mark(port: int) -> socket.socket | None:
    """Return what marks a port as given away while it is open; None if another has marked it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.bind(_MARK.format(port))
    except OSError:
        sock.close()
        return None
    return sock


def _hold(mark: socket.socket) -> None:
    with _lock:
        _held.append(mark)
        if len(_held) > _MOST_HELD:
            _held.popleft().close()


@atexit.register
def _release() -> None:
    """Close what is held: left to the interpreter's end, each would be warned of."""
    with _lock:
        while _held:
            _held.pop().close()


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
