"""What every open page is to know, by section, and the streams that carry it to them.

A section is a piece of JSON that replaces its predecessor. A slow page skips what was replaced meanwhile, so nothing
queues for it and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping

import msgspec

PACE_SECONDS = 0.1
TICK_SECONDS = 5.0


class Hub:
    """Sections, put from any thread, streamed to any number of pages.

    Attributes
    ----------
    watchers : int
        Streams that are open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sections: dict[str, tuple[int, bytes]] = {}
        self._wakes: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._closed = False

    @property
    def watchers(self) -> int:
        """Return how many streams are open."""
        return len(self._wakes)

    def put(self, name: str, content: object, *, quiet: bool = False) -> None:
        """Replace a section and tell the streams; one that stays the same is not sent again.

        A quiet one is for newcomers only: the streams that have the section can make the change themselves.
        """
        text = msgspec.json.encode(content)
        with self._lock:
            version, before = self._sections.get(name, (0, b""))
            if text == before:
                return
            quiet = quiet and version > 0
            self._sections[name] = (version + (not quiet), text)
        if not quiet:
            self._wake_all()

    def get(self, name: str) -> Mapping[str, object]:
        """Return a section as it is now, empty if there is none."""
        with self._lock:
            text = self._sections.get(name, (0, b"{}"))[1]
        found = msgspec.json.decode(text)
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """End every stream once it has sent what there is."""
        self._closed = True
        self._wake_all()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events: all sections, then each as it changes, and a tick in silence."""
        wake = asyncio.Event()
        sent: dict[str, int] = {}
        with self._lock:
            self._wakes[wake] = asyncio.get_running_loop()
        try:
            yield b"retry: 1000\n\n"
            while True:
                wake.clear()
                closed = self._closed  # read before the sections, so that the last of them go out
                if news := self._news(sent):
                    yield news
                if closed:
                    return
                await asyncio.sleep(PACE_SECONDS)
                try:
                    await asyncio.wait_for(wake.wait(), TICK_SECONDS)
                except TimeoutError:
                    yield b"event: tick\ndata: {}\n\n"
        finally:
            with self._lock:
                self._wakes.pop(wake, None)

    def _news(self, sent: dict[str, int]) -> bytes:
        with self._lock:
            news = {n: (v, t) for n, (v, t) in self._sections.items() if sent.get(n) != v}
        sent.update({name: version for name, (version, _) in news.items()})
        return b"".join(b"event: %b\ndata: %b\n\n" % (name.encode(), text) for name, (_, text) in news.items())

    def _wake_all(self) -> None:
        with self._lock:
            waiting = list(self._wakes.items())
        for wake, loop in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake.set)
