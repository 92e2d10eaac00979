"""Notices of a running session: follows the published stream and the metrics, and has couriers tell people.

Everything happens in threads of its own; nothing here can hold up the daemon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType

import structlog
from prometheus_client.parser import text_string_to_metric_families

from streamrecon.client import ClientKeys, StatusMessage, VolumeSubscriber
from streamrecon.config import Config
from streamrecon.errors import TransportError
from streamrecon.notices.channels import channels_of
from streamrecon.notices.courier import Courier
from streamrecon.notices.notice import Notice
from streamrecon.notices.quiet import QuietTimes
from streamrecon.notices.watch import Watch
from streamrecon.transport import schema
from streamrecon.transport.keys import LOCAL_NAME, client_folder

TOPICS = (schema.STATUS, schema.EVENT, schema.SESSION)
_TICK_SECONDS = 0.5
_PAGE_SECONDS = 15.0
_LISTEN_AGAIN_SECONDS = 1.0
_SILENCE_SECONDS = 5.0
# run has 75 s to stop, systemd waits for 90
_FAREWELL_SECONDS = 8.0

_log = structlog.get_logger(__name__)


class NoticeService:
    """Tell people what happens in a session, from entering to leaving a with statement.

    Parameters
    ----------
    config : Config
    environment : mapping of str to str
        May hold the secrets.
    page : callable
        Returns the metrics page, None if it cannot be had; may take seconds.
    count : callable
        Told channel and outcome of each delivery.
    tell_silence : bool
        Whether a stream that falls silent is a failure to be told; not if somebody looks after the processes.

    Raises
    ------
    ConfigError
        A secret is missing, or others can read it.
    """

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        page: Callable[[], bytes | None],
        *,
        count: Callable[[str, str], None] = lambda _channel, _outcome: None,
        tell_silence: bool = False,
    ) -> None:
        self._config = config
        self._page = page
        self._tell_silence = tell_silence
        self._lock = threading.Lock()  # over watch and quiet times, which several threads tell
        self._watch = Watch(config.notify, config.session.name, time.time())
        self._quiet = QuietTimes(config.notify.quiet_seconds)
        folder = config.security.curve_folder
        self._keys = None if folder is None else ClientKeys.load(client_folder(folder, LOCAL_NAME))
        self._began = time.time()
        self._ended = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="notices", daemon=True)
        self._ticker = threading.Thread(target=self._tick, name="notices-clock", daemon=True)
        self._couriers = [Courier(channel, count) for channel in channels_of(config.notify, environment)]

    def __enter__(self) -> NoticeService:
        self._listener.start()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # it reads the session's end, if that is still under way; one that hears only silence is left behind
        self._listener.join(_LISTEN_AGAIN_SECONDS)
        self._ticker.join(_LISTEN_AGAIN_SECONDS)
        with self._lock:
            self._send(self._quiet.due(time.time(), all_of_them=True))
        deadline = time.monotonic() + _FAREWELL_SECONDS
        for courier in self._couriers:
            courier.close(max(0.0, deadline - time.monotonic()))

    def failure(self, text: str) -> None:
        """Tell that a part of the daemon failed; returns at once. For any thread."""
        with self._lock:
            self._tell(self._watch.failure(text, time.time()))

    def _listen(self) -> None:
        heard = False
        while not self._ended.is_set():
            try:
                with self._subscriber() as messages:
                    for message in messages:
                        heard = True
                        # who joins late is sent the last of each topic: the status says where we are, the rest is old
                        if isinstance(message, StatusMessage) or message.header.timestamp >= self._began:
                            with self._lock:
                                self._tell(self._watch.take(message, time.time()))
            except TransportError as error:
                _log.debug("stream not heard", reason=str(error))
                if heard and self._tell_silence:
                    self.failure(f"the worker is not heard any more: {error}")
                heard = False
            except Exception:
                _log.exception("notices failed; listening anew")
            self._ended.wait(_LISTEN_AGAIN_SECONDS)

    def _subscriber(self) -> VolumeSubscriber:
        publish = self._config.publish
        return VolumeSubscriber(
            _reachable(publish.events),
            snapshots=_reachable(publish.snapshots),
            topics=TOPICS,
            timeout_seconds=max(_SILENCE_SECONDS, 5 * publish.heartbeat_seconds),
            curve=self._keys,
        )

    def _tick(self) -> None:
        look_at = 0.0
        while not self._ended.wait(_TICK_SECONDS):
            count = None
            if time.monotonic() >= look_at:
                count = _open_quarantine(self._page())
                look_at = time.monotonic() + _PAGE_SECONDS
            now = time.time()
            with self._lock:
                self._tell(self._watch.tick(now))
                if count is not None:
                    self._tell(self._watch.quarantine(count, now))
                self._send(self._quiet.due(now))

    def _tell(self, notices: Iterable[Notice]) -> None:
        admitted = (self._quiet.admit(notice, notice.at) for notice in notices)
        self._send(notice for notice in admitted if notice is not None)

    def _send(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            _log.info("notice", kind=notice.kind, text=notice.body)
            for courier in self._couriers:
                courier.put(notice)


def _reachable(endpoint: str) -> str:
    """Return an endpoint that is bound on every address as one to connect to on this host."""
    return endpoint.replace("//*:", "//127.0.0.1:").replace("//0.0.0.0:", "//127.0.0.1:")


def _open_quarantine(page: bytes | None) -> int | None:
    """Return how many files and rows wait for a person, None if the page does not say."""
    if page is None:
        return None
    counts = [
        sample.value
        for family in text_string_to_metric_families(page.decode("utf-8", "replace"))
        if family.name == "streamrecon_ingest_quarantine_open"
        for sample in family.samples
    ]
    return int(sum(counts)) if counts else None
