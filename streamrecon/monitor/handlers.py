"""What a signal handler may do to the threads of its program."""

from __future__ import annotations

import _thread
import threading


def set_from_handler(event: threading.Event) -> None:
    """Set an event from a signal handler, a moment later.

    Notes
    -----
    A handler runs between any two steps of the main thread. Where that is about to wait for the event, or has just been
    woken by it, it holds the event's lock, for which `threading.Event.set` would then wait for ever. So a thread of its
    own does it, made by what needs no lock of `threading` either.
    """
    try:
        _thread.start_new_thread(event.set, ())
    except RuntimeError:  # no more threads
        event.set()
