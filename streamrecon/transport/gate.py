"""Who may connect: CURVE on the sockets that we bind, an allow-list of keys, and every refusal counted.

One gate a ZeroMQ context, because ZAP, by which libzmq asks about each key, has one address a context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
import zmq
from zmq.auth.thread import ThreadAuthenticator

from streamrecon.transport.handshake import HandshakeWatch
from streamrecon.transport.keys import ROLES, Role, ServerKeys
from streamrecon.transport.seldom import Seldom

# from zmq.h, where it is fixed, but not in pyzmq: without an answer from ZAP nobody comes in
_ZAP_ENFORCE_DOMAIN = 93
_MOST_KEYS_LOGGED = 1000

_log = structlog.get_logger(__name__)


class Gate:
    """Guards the sockets of one context; with no keys it lets everybody in.

    Parameters
    ----------
    context : zmq.Context
    keys : ServerKeys or None
    refused : callable
        Told the reason of each refusal.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: ServerKeys | None, refused: Callable[[str], None]
    ) -> None:
        self._keys = keys
        self._refused = refused
        self._seldom = Seldom()
        self._watches: list[HandshakeWatch] = []
        self._authenticator: ThreadAuthenticator | None = None
        if keys is not None:
            self._authenticator = ThreadAuthenticator(context)
            self._authenticator.start()
            for role in ROLES:
                self._authenticator.configure_curve_callback(role, _AllowList(keys, role))

    def guard(self, sock: zmq.Socket[bytes], role: Role) -> None:
        """Let only the role's keys in; before the socket is bound."""
        if self._keys is None:
            return
        sock.curve_server = True
        sock.curve_publickey = self._keys.public
        sock.curve_secretkey = self._keys.secret
        sock.setsockopt_string(zmq.ZAP_DOMAIN, role)
        sock.setsockopt(_ZAP_ENFORCE_DOMAIN, 1)
        self._watches.append(HandshakeWatch(sock))

    def poll(self) -> None:
        """Count what was refused since the last call; in the thread of the sockets."""
        for watch in self._watches:
            for reason in watch.failures():
                self._refused(reason)
                # an unknown key is logged with the key already
                if reason != "unknown_key" and (times := self._seldom.due(reason)):
                    _log.warning("peer_refused", reason=reason, times=times)

    def close(self) -> None:
        """Stop; before the sockets are closed."""
        for watch in self._watches:
            watch.close()
        self._watches.clear()
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None


class _AllowList:
    """Asked by the authenticator, in its thread."""

    def __init__(self, keys: ServerKeys, role: Role) -> None:
        self._keys = keys
        self._role = role
        self._logged: set[bytes] = set()

    def callback(self, domain: Any, key: bytes) -> bool:  # noqa: ARG002  # the authenticator's name for it
        try:
            allowed = self._keys.authorizes(self._role, key)
        except Exception:
            # an exception would end the authenticator's thread, and nobody could come in any more
            _log.exception("allow-list cannot be read", folder=str(self._keys.folder))
            return False
        # who is refused tries again and again: once in the log is enough
        if not allowed and key not in self._logged and len(self._logged) < _MOST_KEYS_LOGGED:
            self._logged.add(key)
            _log.warning("peer_refused", reason="unknown_key", role=self._role, key=key.decode(errors="replace"))
        return allowed
