"""`VolumeSubscriber`: an iterator of typed messages with numpy arrays."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import zmq

from streamrecon.client.options import Subscription
from streamrecon.client.state import Received
from streamrecon.client.wire import ASK_AGAIN_SECONDS, Wire
from streamrecon.errors import TransportError
from streamrecon.transport.schema import Message

_NAP_SECONDS = 0.2


class VolumeSubscriber(Subscription):
    """Messages of a session, from the state it is in now and on, until it ends.

    Parameters
    ----------
    events, volumes : str or None
        Endpoints of the publisher's two PUB sockets; give the ones you want.
    snapshots : str or None
        Endpoint of its snapshot socket. Without it a late joiner waits for the next message of each topic.
    topics : sequence of str
        Only topics that begin with one of these, such as ``"volume/full/"``; none means all.
    timeout_seconds : float
        After listening that long without even a heartbeat the publisher counts as lost; to take long over a message is
        not to listen.
    on_gap : {"count", "raise"}
        What to do about lost messages: add them to `gaps`, or raise `SequenceGap` (iterate on to go on).
    latest_only : bool
        For consumers slower than the stream: of each topic but ``event/`` and ``session/`` only the newest
        message waits; what it supersedes is counted in `skipped`. A thread reads the sockets meanwhile.
    reconnect : bool
        Neither silence nor the end of the session ends the iteration: wait for the publisher, however long, and
        catch up when it is back.
    curve : ClientKeys or None
        ``ClientKeys.load(folder)`` of the folder that ``streamrecon keygen`` made for this client, if the
        daemon wants CURVE.

    Raises
    ------
    TransportError
        Nothing is heard for ``timeout_seconds``, or what is heard cannot be understood.
    AuthenticationError
        The daemon does not know our key, we do not know its, or only one of us wants CURVE.
    SequenceGap
        Messages were lost and ``on_gap`` is "raise".

    Notes
    -----
    Subscribe first, ask for the state second, drop what the state already holds: nothing falls in between.
    Iteration ends after the session's end message, unless ``reconnect``.

    Examples
    --------
    >>> with VolumeSubscriber("tcp://127.0.0.1:8761", "tcp://127.0.0.1:8762", "tcp://127.0.0.1:8763") as messages:
    ...     for message in messages:
    ...         if isinstance(message, VolumeMessage):
    ...             print(message.header.resolution_angstrom, message.volume.shape)
    """

    # latest_only has a thread that reads the sockets, whoever takes or does not take the messages; it changes the
    # state only while it holds the condition
    _pump: threading.Thread | None = None
    _stopping = False
    _failure: TransportError | None = None

    def __enter__(self) -> VolumeSubscriber:
        wire = self._open()
        self._changed = threading.Condition()
        if self._latest_only:
            self._stopping = False
            self._failure = None
            self._pump = threading.Thread(target=self._pump_messages, args=(wire,), name="subscriber", daemon=True)
            self._pump.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets."""
        if self._pump is not None:
            self._stopping = True
            self._pump.join()
            self._pump = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def __iter__(self) -> VolumeSubscriber:
        return self

    def __next__(self) -> Message:
        """Return the next message; heartbeats are kept to ourselves.

        Raises
        ------
        StopIteration
            The session has ended.
        TransportError, SequenceGap
            See the class.
        """
        return self.next_received().message

    def next_received(self) -> Received:
        """Return the next message together with its frames and the time it arrived; raises as ``next`` does."""
        wire = self._opened()
        received = self._next_of_pump() if self._pump is not None else self._next_of_wire(wire)
        self._latest[received.message.topic] = received.message
        return received

    def _next_of_wire(self, wire: Wire) -> Received:
        while (found := self._state.pop()) is None:
            if self._state.ended:
                raise StopIteration
            self._step(wire)
        if isinstance(found, TransportError):
            raise found
        return found

    def _step(self, wire: Wire) -> None:
        """Wait a moment for something to read, and read it."""
        if self._state.wants_state:
            self._take_state(wire)
            return
        with self._changed:
            wire.check()
            names = self._state.open_sockets
        poller = zmq.Poller()
        for name in names:
            poller.register(wire.sockets[name], zmq.POLLIN)
        if names and poller.poll(wire.patience_milliseconds()):
            with self._changed:
                wire.read(everything=self._latest_only)

    def _take_state(self, wire: Wire) -> None:
        """Ask for the last message of each topic until it is there in full."""
        deadline = time.monotonic() + self._state.timeout_seconds
        while (left := deadline - time.monotonic()) > 0 and not self._stopping:
            again = time.monotonic() + min(left, ASK_AGAIN_SECONDS)
            with wire.ask() as dealer:
                dealer.linger = 0
                while (wait := again - time.monotonic()) > 0 and not self._stopping:
                    if dealer.poll(int(1000 * min(wait, _NAP_SECONDS)) + 1):
                        with self._changed:
                            if wire.read_answer(dealer):
                                return
        if not (self._state.reconnect or self._stopping):
            raise wire.no_answer()

    def _pump_messages(self, wire: Wire) -> None:
        while not self._stopping and self._failure is None and self._state.open_sockets:
            failure: TransportError | None = None
            try:
                self._step(wire)
            except TransportError as error:
                failure = error
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _next_of_pump(self) -> Received:
        with self._changed:
            while True:
                found = self._state.pop()
                if isinstance(found, Received):
                    return found
                if found is not None:
                    raise found
                if self._failure is not None:
                    raise self._failure
                if self._state.ended:
                    raise StopIteration
                self._changed.wait(_NAP_SECONDS)
