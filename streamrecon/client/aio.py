"""`AsyncVolumeSubscriber`: the same messages for programs that run an asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from types import TracebackType

import zmq

from streamrecon.client.options import Subscription
from streamrecon.client.state import Received
from streamrecon.client.wire import ASK_AGAIN_SECONDS, Wire
from streamrecon.errors import TransportError
from streamrecon.transport.schema import Message


class AsyncVolumeSubscriber(Subscription):
    """As `VolumeSubscriber`, with ``async with`` and ``async for``; parameters and errors are the same.

    Notes
    -----
    With ``latest_only`` a task reads the sockets while the consumer awaits something else; a consumer that
    computes without ever awaiting keeps it from doing so (use ``asyncio.to_thread``).

    Examples
    --------
    >>> async def follow() -> None:
    ...     async with AsyncVolumeSubscriber(volumes="tcp://127.0.0.1:8762", latest_only=True) as messages:
    ...         async for message in messages:
    ...             print(message.topic, message.header.sequence)
    """

    _pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncVolumeSubscriber:
        wire = self._open()
        if self._latest_only:
            self._changed = asyncio.Condition()
            self._pump = asyncio.create_task(self._pump_messages(wire))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the sockets."""
        if self._pump is not None:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, TransportError):
                await self._pump
            self._pump = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def __aiter__(self) -> AsyncVolumeSubscriber:
        return self

    async def __anext__(self) -> Message:
        """Return the next message; heartbeats are kept to ourselves.

        Raises
        ------
        StopAsyncIteration
            The session has ended.
        TransportError, SequenceGap
            See `VolumeSubscriber`.
        """
        return (await self.next_received()).message

    async def next_received(self) -> Received:
        """Return the next message together with its frames and the time it arrived; raises as ``anext`` does."""
        wire = self._opened()
        while (found := self._state.pop()) is None:
            if self._state.ended:
                raise StopAsyncIteration
            if self._pump is None:
                await self._step(wire)
            else:
                await self._wait_for_pump(self._pump)
        if isinstance(found, TransportError):
            raise found
        self._latest[found.message.topic] = found.message
        return found

    async def _step(self, wire: Wire) -> None:
        """Wait a moment for something to read, and read it."""
        if self._state.wants_state:
            await self._take_state(wire)
            return
        wire.check()
        sockets = [wire.sockets[name] for name in self._state.open_sockets]
        if await _readable(sockets, wire.patience_milliseconds() / 1000):
            wire.read(everything=self._latest_only)

    async def _take_state(self, wire: Wire) -> None:
        """Ask for the last message of each topic until it is there in full."""
        deadline = time.monotonic() + self._state.timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            again = time.monotonic() + min(left, ASK_AGAIN_SECONDS)
            with wire.ask() as dealer:
                dealer.linger = 0
                while (wait := again - time.monotonic()) > 0:
                    if await _readable([dealer], wait) and wire.read_answer(dealer):
                        return
        if not self._state.reconnect:
            raise wire.no_answer()

    async def _pump_messages(self, wire: Wire) -> None:
        while self._state.open_sockets:
            await self._step(wire)
            async with self._changed:
                self._changed.notify_all()

    async def _wait_for_pump(self, pump: asyncio.Task[None]) -> None:
        """Return once the pump has read something; raise what it failed with."""
        if pump.done():
            pump.result()
            return
        waiting = asyncio.create_task(self._wait_for_change())
        try:
            await asyncio.wait({waiting, pump}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting

    async def _wait_for_change(self) -> None:
        async with self._changed:
            await self._changed.wait()


async def _readable(sockets: Sequence[zmq.Socket[bytes]], timeout_seconds: float) -> bool:
    """Wait until one of the sockets has something to read; False if nothing came in time.

    ZeroMQ's descriptor tells only that something may have happened since the socket was last looked at. So look
    first, and wait for the descriptor only if there was nothing. (Sockets of `zmq.asyncio` cannot be used: the
    wire reads these without waiting, and an asyncio socket that shadows another closes it.)
    """
    loop = asyncio.get_running_loop()
    happened = asyncio.Event()
    descriptors = [int(sock.getsockopt(zmq.FD)) for sock in sockets]
    deadline = time.monotonic() + timeout_seconds
    for descriptor in descriptors:
        loop.add_reader(descriptor, happened.set)
    try:
        while not any(sock.poll(0) for sock in sockets):
            happened.clear()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(happened.wait(), left)
        # also a consumer that never waits lets the other tasks run
        await asyncio.sleep(0)
        return True
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
