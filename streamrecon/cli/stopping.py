"""SIGINT, SIGTERM and SIGHUP as a wish to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from streamrecon.monitor.handlers import set_from_handler


def stop_on_signals() -> threading.Event:
    """Return an event that the first SIGINT or SIGTERM sets; the second one ends the program at once.

    SIGHUP sets it, too, however often it comes: the terminal is gone, or the process that started us
    (`streamrecon.monitor.launch`), of which the kernel tells once for each of its threads. Where it is ignored, as
    under nohup(1), it stays so.
    """
    stop = threading.Event()

    def first(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature of a handler
        signal.signal(number, signal.SIG_DFL)
        set_from_handler(stop)

    def hang_up(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the same
        set_from_handler(stop)

    signal.signal(signal.SIGINT, first)
    signal.signal(signal.SIGTERM, first)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    return stop
