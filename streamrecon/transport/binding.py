"""Binding a socket to its endpoint, and to no other program's."""

from __future__ import annotations

import errno
import socket

import zmq

_IPC = "ipc://"
_PROBE_SECONDS = 1.0


def bind(sock: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind a socket.

    Raises
    ------
    zmq.ZMQError
        It cannot be; EADDRINUSE where somebody listens there. ZeroMQ itself says so of ports alone: a path it takes
        away from whoever listens on it, who hears nothing of it. A path on which nobody listens is what a killed
        daemon has left, and is taken.
    """
    path = endpoint.removeprefix(_IPC)
    # a name in the abstract namespace (@) is refused by the kernel
    if endpoint.startswith(_IPC) and not path.startswith("@") and _is_heard(path):
        raise zmq.ZMQError(errno.EADDRINUSE)
    sock.bind(endpoint)


def _is_heard(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(path)
        except TimeoutError:  # one who listens and is too busy to take notice
            return True
        except OSError:  # nothing there, or nobody; or a path that cannot be bound either
            return False
    return True
