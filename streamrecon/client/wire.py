"""A subscriber's sockets: opened, watched for refusals and read, never waited for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping

import zmq

from streamrecon.client.state import SocketName, StreamState
from streamrecon.errors import AuthenticationError, TransportError
from streamrecon.transport import schema
from streamrecon.transport.handshake import ClientWatch
from streamrecon.transport.keys import ClientKeys

# two snapshots: who reads more slowly than they come loses some, and memory stays bounded
_VOLUME_HIGH_WATER_MARK = 2 * len(schema.ON_VOLUMES_SOCKET) + 4
# a host that goes away without a word is noticed, and dialled again, at most so seldom
_PING_MILLISECONDS = 5000
_MAX_REDIAL_MILLISECONDS = 2000
# how often refusals are looked for while nothing comes
REFUSAL_SECONDS = 0.2
ASK_AGAIN_SECONDS = 2.0
# whoever has not looked for so long was busy with a message, or stood still: that is no silence of the publisher
_AWAY_SECONDS = 1.0


class Wire:
    """The sockets of one subscriber.

    Parameters
    ----------
    endpoints : mapping of {"events", "volumes"} to str
    snapshots : str or None
    curve : ClientKeys or None
    state : StreamState
        Fed with what is read.

    Raises
    ------
    TransportError
        An endpoint is none.
    """

    def __init__(
        self,
        endpoints: Mapping[SocketName, str],
        snapshots: str | None,
        curve: ClientKeys | None,
        state: StreamState,
    ) -> None:
        self._endpoints = dict(endpoints)
        self._snapshots = snapshots
        self._curve = curve
        self._state = state
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: dict[SocketName, zmq.Socket[bytes]] = {}
        self._watches: dict[SocketName, ClientWatch] = {}
        self._looked = self._judges_from = time.monotonic()
        try:
            for name, endpoint in self._endpoints.items():
                self.sockets[name] = self._subscribe(name, endpoint)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        for sock in self.sockets.values():
            sock.close(linger=0)
        self.sockets.clear()
        self.context.destroy(linger=0)

    def check(self) -> None:
        """Raise if we were turned away, or if a socket has been silent for too long while we listened.

        Raises
        ------
        AuthenticationError, TransportError
        """
        for name in self._state.open_sockets:
            if text := self._watches[name].refusal():
                raise AuthenticationError(text)
        now = time.monotonic()
        if now - self._looked > _AWAY_SECONDS:
            self._judges_from = now + REFUSAL_SECONDS  # what has come meanwhile is read first
        self._looked = now
        if now < self._judges_from:
            return
        silent = self._state.silent(now)
        if silent is not None:
            raise TransportError(
                f"{silent} {self._endpoints[silent]}: nothing heard for {self._state.timeout_seconds:g} s, not even "
                "a heartbeat; the worker has stopped or cannot be reached: check `streamrecon run` and the endpoint"
            )

    def patience_milliseconds(self) -> int:
        """Return for how long to wait for the sockets before `check` is due."""
        now = time.monotonic()
        patience = max(self._state.patience(now), self._judges_from - now)
        return int(1000 * min(patience, REFUSAL_SECONDS)) + 1

    def read(self, *, everything: bool = False) -> None:
        """Feed the state one message of each socket that has one, or all that are there."""
        for name in self._state.open_sockets:
            sock = self.sockets[name]
            with contextlib.suppress(zmq.Again):
                while True:
                    frames = sock.recv_multipart(zmq.NOBLOCK)
                    self._state.receive(name, frames, time.monotonic(), time.time())
                    if not everything:
                        break

    def ask(self) -> zmq.Socket[bytes]:
        """Ask for the state on a socket of its own, which the caller reads and closes."""
        assert self._snapshots is not None
        self._state.forget_answer()
        dealer = self.context.socket(zmq.DEALER)
        try:
            self._dial(dealer, self._snapshots)
            dealer.send_multipart(schema.encode_snapshot_request(self._state.topics))
        except BaseException:
            dealer.close(linger=0)
            raise
        return dealer

    def read_answer(self, dealer: zmq.Socket[bytes]) -> bool:
        """Feed the state what has come of an answer; return True if it is complete."""
        with contextlib.suppress(zmq.Again):
            while True:
                if self._state.receive_answer(dealer.recv_multipart(zmq.NOBLOCK), time.time()):
                    return True
        return False

    def no_answer(self) -> TransportError:
        """Return the error of a snapshot socket that says nothing."""
        return TransportError(
            f"{self._snapshots}: no answer to a snapshot request within {self._state.timeout_seconds:g} s; "
            "check publish.snapshots, or leave the snapshots endpoint out"
        )

    def _subscribe(self, name: SocketName, endpoint: str) -> zmq.Socket[bytes]:
        sock = self.context.socket(zmq.SUB)
        if name == "volumes":
            sock.setsockopt(zmq.RCVHWM, _VOLUME_HIGH_WATER_MARK)
        for option, value in (
            (zmq.HEARTBEAT_IVL, _PING_MILLISECONDS),
            (zmq.RECONNECT_IVL_MAX, _MAX_REDIAL_MILLISECONDS),
        ):
            sock.setsockopt(option, value)
        for topic in _subscriptions(self._state.topics):
            sock.subscribe(topic)
        self._watches[name] = ClientWatch(sock, f"{name} {endpoint}", curve=self._curve is not None)
        self._dial(sock, endpoint)
        return sock

    def _dial(self, sock: zmq.Socket[bytes], endpoint: str) -> None:
        sock.setsockopt(zmq.MAXMSGSIZE, schema.MAX_ARRAY_BYTES)
        if self._curve is not None:
            self._curve.use(sock)
        try:
            sock.connect(endpoint)
        except zmq.ZMQError as error:
            raise TransportError(
                f"{endpoint}: is not an endpoint ({error.strerror}); expected tcp://address:port or ipc://path"
            ) from error


def _subscriptions(topics: Iterable[str]) -> set[str]:
    return {*topics, schema.HEARTBEAT, schema.SESSION}
