"""Addresses of config.toml: is there such a port, and does each socket have its own?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

_HIGHEST_PORT = 65535
_EVERY_ADDRESS = ("*", "0.0.0.0")  # compared with, not bound


def check_port(address: str) -> str:
    """Return an endpoint or host:port as it is; raise ValueError if there is no such port."""
    if not address.startswith("ipc://") and int(address.rsplit(":", 1)[1]) > _HIGHEST_PORT:
        raise ValueError(f"expected a port of 0 to {_HIGHEST_PORT}")
    return address


def shared_address(addresses: Mapping[str, str]) -> tuple[str, str] | None:
    """Return two keys whose sockets cannot both be bound, None if there are none; "" is no address."""
    for (one, first), (other, second) in combinations(addresses.items(), 2):
        if first and second and _collide(first, second):
            return one, other
    return None


def _collide(first: str, second: str) -> bool:
    if first.startswith("ipc://") or second.startswith("ipc://"):
        return first == second
    (host, port), (other_host, other_port) = _split(first), _split(second)
    same_host = host == other_host or host in _EVERY_ADDRESS or other_host in _EVERY_ADDRESS
    return port == other_port != 0 and same_host


def _split(address: str) -> tuple[str, int]:
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    return "127.0.0.1" if host == "localhost" else host, int(port)
