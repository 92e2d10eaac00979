"""The threads that keep a view up to date: one follows the worker's sockets, one looks at the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from streamrecon.client import ClientKeys, VolumeSubscriber
from streamrecon.config.model import PublishConfig
from streamrecon.errors import AuthenticationError, ProtocolVersionError, StreamReconError
from streamrecon.page.view import SHOWN_TOPICS, SessionView
from streamrecon.transport.schema import TOPICS

RETRY_SECONDS = 1.0
_MISSED_HEARTBEATS = 4.0
_LEAST_SILENCE_SECONDS = 4.0
_LOOK_SECONDS = 1.0
# looking may take a twentieth of one core, however long the ledger has become
_SHARE_OF_TIME = 0.05

_log = structlog.get_logger(__name__)


def follow(view: SessionView, publish: PublishConfig, curve: ClientKeys | None, stop: threading.Event) -> None:
    """Feed a view with a session's messages until ``stop``; a worker that goes away is waited for.

    Whatever fails is told on the page and tried again: this side must be there when the worker is back.
    """
    timeout = max(_LEAST_SILENCE_SECONDS, _MISSED_HEARTBEATS * publish.heartbeat_seconds)
    while not stop.is_set():
        subscriber = VolumeSubscriber(
            publish.events,
            publish.volumes,
            publish.snapshots,
            topics=[topic for topic in TOPICS if topic in SHOWN_TOPICS],
            timeout_seconds=timeout,
            curve=curve,
        )
        try:
            with subscriber as messages:
                for message in messages:
                    view.take(message)
                    if stop.is_set():
                        return
        except StreamReconError as error:
            _log.debug("worker not heard", reason=str(error))
            for_people = isinstance(error, AuthenticationError | ProtocolVersionError)
            view.worker_silent(f"{error}." if for_people else "")
        except Exception:
            # a message that cannot be shown must not end the page
            _log.exception("message could not be shown")
        stop.wait(RETRY_SECONDS)


def look_at_ledger(view: SessionView, look: Callable[[], Mapping[str, Any]], stop: threading.Event) -> None:
    """Feed a view with what ``look`` finds, about once a second, until ``stop``."""
    while not stop.is_set():
        began = time.monotonic()
        try:
            view.take_ledger(look())
        except StreamReconError as error:
            _log.debug("no ledger to look at", reason=str(error))  # there is none before the first start of ingest
        except Exception:
            _log.exception("ledger could not be shown")
        stop.wait(max(_LOOK_SECONDS, (time.monotonic() - began) / _SHARE_OF_TIME))
