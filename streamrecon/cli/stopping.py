"""SIGINT and SIGTERM as a wish to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def stop_on_signals() -> threading.Event:
    """Return an event that the first SIGINT or SIGTERM sets; the second one ends the program at once."""
    stop = threading.Event()

    def first(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature of a handler
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGINT, first)
    signal.signal(signal.SIGTERM, first)
    return stop
