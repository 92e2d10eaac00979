"""Handshakes that failed on a socket, at either end, and what to tell the user of a client that nobody lets in."""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamrecon.transport.keys import Role, authorized_folder

# "disconnected": it hung up in the middle, as a port scan does, and a client without keys that sees first that we
# want some
REFUSAL_REASONS = ("unknown_key", "plaintext", "handshake", "disconnected")
# A daemon that ends while we connect hangs up once or twice. One that wants CURVE of a client without, and sees it
# first, hangs up every time.
HANG_UPS_IN_A_ROW = 5

_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class HandshakeWatch:
    """Tells of handshakes that failed on one socket, at either end; used in the thread of the socket."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self._socket = sock
        self._monitor = sock.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def failures(self) -> list[str]:
        """Return why the handshakes since the last call failed: values of `REFUSAL_REASONS`."""
        return [reason for reason in self.outcomes() if reason is not None]

    def outcomes(self) -> list[str | None]:
        """Return how the handshakes since the last call ended, in order: None for one that succeeded."""
        outcomes: list[str | None] = []
        while self._monitor.poll(0):
            message = recv_monitor_message(self._monitor)
            if message["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                outcomes.append(None)
            elif message["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                outcomes.append("unknown_key")
            elif message["event"] == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                outcomes.append("disconnected")
            elif message["event"] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                mismatch = message["value"] == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
                outcomes.append("plaintext" if mismatch else "handshake")
        return outcomes

    def close(self) -> None:
        """Stop watching; before the socket is closed."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)


class ClientWatch:
    """Watches the handshakes of a client's socket; made before it connects.

    Parameters
    ----------
    sock : zmq.Socket
    endpoint : str
        As the user knows it.
    curve : bool
        The client has keys.
    role : Role
        What it would be: says where its key belongs.

    Attributes
    ----------
    successes : int
        Connections made so far, as far as `refusal` has looked.
    """

    def __init__(self, sock: zmq.Socket[bytes], endpoint: str, *, curve: bool, role: Role = "subscriber") -> None:
        self._role = role
        self._watch = HandshakeWatch(sock)
        self._endpoint = endpoint
        self._curve = curve
        self._hang_ups = 0
        self.successes = 0

    def refusal(self) -> str | None:
        """Return what to tell the user if the other end has refused us, None if there is nothing to tell.

        Without keys an end that speaks no ZeroMQ at all, perhaps for now, looks like any other failed handshake.
        Which of two ends with different mechanisms sees it first is chance: the other sees only a hang-up, so
        several in a row with no success between count as a refusal, too.
        """
        for outcome in self._watch.outcomes():
            if outcome is None:
                self._hang_ups = 0
                self.successes += 1
            elif outcome == "disconnected":
                self._hang_ups += 1
            if outcome == "unknown_key":
                return self._text(
                    "our key is not authorized there; put its .key file into security.curve_dir/"
                    + authorized_folder(self._role)
                )
            if outcome == "plaintext":
                return self._text("only one of the two ends uses CURVE; give the client its keys, or the daemon none")
            if outcome == "handshake" and self._curve:
                return self._text("the daemon has another key than the server.key we hold; get the present one")
            if self._hang_ups >= HANG_UPS_IN_A_ROW:
                return self._text(
                    f"the other end hung up {self._hang_ups} times in a row, most likely because only one of the two "
                    "ends uses CURVE; give the client its keys, or the daemon none, and check that nothing else, "
                    "such as a tunnel with no daemon behind it, holds the port"
                )
        return None

    def close(self) -> None:
        """Stop watching; before the socket is closed."""
        self._watch.close()

    def _text(self, why: str) -> str:
        return (
            f"{self._endpoint}: expected to be let in, found the connection refused: {why} (see `streamrecon keygen`)"
        )
