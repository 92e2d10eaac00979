"""Putting the page's process together: threads that read the session, and the HTTP server of its view."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from streamrecon.config.model import Config
from streamrecon.errors import TransportError
from streamrecon.page.app import make_app
from streamrecon.page.follow import follow, look_at_ledger
from streamrecon.page.hub import Hub
from streamrecon.page.view import SessionView
from streamrecon.transport.keys import LOCAL_NAME, ClientKeys, client_folder

NICENESS = 10
_OUT_OF_MEMORY_SCORE = "500"
# when told to stop: for the worker's word that the session has ended, and for the pages to be told; the supervisor
# waits longer than both (monitor.companion)
_END_SECONDS = 4.0
_LAST_WORDS_SECONDS = 2.0

_log = structlog.get_logger(__name__)


def run_page(config: Config, bind: str, look: Callable[[], Mapping[str, Any]], stop: threading.Event) -> None:
    """Serve a session's page until ``stop``, and the few seconds that the session's own end may take to be heard.

    Parameters
    ----------
    config : Config
    bind : str
        ``host:port``.
    look : callable
        Returns what `streamrecon status` finds.
    stop : threading.Event

    Raises
    ------
    ConfigError
        There should be keys and are none.
    TransportError
        The address cannot be bound.
    """
    folder = config.security.curve_folder
    curve = None if folder is None else ClientKeys.load(client_folder(folder, LOCAL_NAME))
    view = SessionView(Hub(), config.session.name)
    leaving = threading.Event()
    threads = [
        threading.Thread(target=follow, args=(view, config.publish, curve, leaving), name="follow", daemon=True),
        threading.Thread(target=look_at_ledger, args=(view, look, leaving), name="ledger", daemon=True),
    ]
    with served(view, config.session.output_dir, bind, any_host=_is_open(config)) as port:
        _log.info("page served", port=port)
        for thread in threads:
            thread.start()
        stop.wait()
        _hear_the_end(view)
        leaving.set()


def _hear_the_end(view: SessionView) -> None:
    """Let a worker that is heard say that the session has ended: its last maps are before that in the queue."""
    deadline = time.monotonic() + _END_SECONDS
    while view.going_on and time.monotonic() < deadline:
        time.sleep(0.02)


@contextmanager
def served(view: SessionView, output_dir: Path, bind: str, *, any_host: bool = False) -> Iterator[int]:
    """Serve a view in a thread; yield the port.

    Raises
    ------
    TransportError
        The address cannot be bound.
    """
    sock = _listen(bind)
    app = make_app(view, output_dir, str(view.hub.get("session").get("name", "session")), any_host=any_host)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=30,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, name="http", daemon=True)
    thread.start()
    try:
        yield int(sock.getsockname()[1])
    finally:
        view.hub.close()
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while view.hub.watchers and time.monotonic() < deadline:
            time.sleep(0.02)
        server.should_exit = True
        thread.join(timeout=10)
        sock.close()


def step_back() -> None:
    """Let everybody else go first: for the processor, and for memory when there is too little."""
    os.nice(NICENESS)
    if os.getsid(0) == os.getpid():
        # where Linux groups processes by session (sched_autogroup), niceness counts only against others of the same
        # session; this one is ours alone, so its claim can be lowered without touching anybody's shell
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICENESS), encoding="ascii")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_SCORE, encoding="ascii")


def _listen(bind: str) -> socket.socket:
    host, port = bind.rsplit(":", 1)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, int(port)))
        sock.listen(128)  # who comes before the server runs waits
    except OSError as error:
        sock.close()
        raise TransportError(
            f"http://{bind}: cannot be bound ({error.strerror}); choose a free port with --bind, or end the program "
            "that holds it"
        ) from error
    return sock


def _is_open(config: Config) -> bool:
    host = config.monitor.bind.rsplit(":", 1)[0]
    return host not in ("127.0.0.1", "localhost")
