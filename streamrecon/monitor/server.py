"""The HTTP side of a process: ``/metrics`` for Prometheus, ``/healthz`` for whoever restarts it, the page for people.

Metrics and health are answered here; all else is passed to the page's own process, if there is one, so that nothing
that happens to the page can cost them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from streamrecon.errors import TransportError
from streamrecon.monitor.forward import MOST_AT_ONCE, finish, forward

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# pages that look on, Prometheus, and as much again
MOST_CONNECTIONS = 2 * MOST_AT_ONCE
REQUEST_SECONDS = 10.0
_FETCH_SECONDS = 2.0
_LAST_WORDS_SECONDS = 1.0

_log = structlog.get_logger(__name__)
Health = Mapping[str, object]


class MonitorServer:
    """Serve metrics and health in threads of their own.

    Parameters
    ----------
    bind : str
        ``host:port``; port 0 picks a free one.
    metrics : callable
        Returns the metrics as text.
    health : callable
        Returns whether all is well, and what to say about it as JSON.
    page : callable or None
        Returns the loopback port of the page's process, None while it does not run. Without it there is no page.

    Attributes
    ----------
    port : int

    Raises
    ------
    TransportError
        The address cannot be bound.
    """

    def __init__(
        self,
        bind: str,
        metrics: Callable[[], bytes],
        health: Callable[[], tuple[bool, Health]],
        page: Callable[[], int | None] | None = None,
    ) -> None:
        host, port = bind.rsplit(":", 1)

        class Handler(_Handler):
            get_metrics = staticmethod(metrics)
            get_health = staticmethod(health)
            get_page = staticmethod(page or (lambda: None))
            has_page = page is not None

        try:
            self._server = _Server((host, int(port)), Handler)
        except OSError as error:
            raise TransportError(
                f"http://{bind}: cannot be bound ({error.strerror}); choose a free port for monitor.bind, "
                "or end the program that holds it"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> MonitorServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; a page that has ended gets its last words out."""
        self._server.shutdown()
        finish(_LAST_WORDS_SECONDS)
        self._server.server_close()
        self._thread.join()


def registry_text(registry: CollectorRegistry) -> Callable[[], bytes]:
    """Return what renders a registry as text."""
    return lambda: generate_latest(registry)


def fetch_metrics(port: int) -> bytes | None:
    """Return the metrics that a process of ours serves on the loopback, None if it does not answer."""
    status, body = _fetch(port, "/metrics")
    return body if status == 200 else None


def fetch_health(port: int) -> bool | None:
    """Return whether a process of ours says that it is well, None if it does not answer."""
    status, _ = _fetch(port, "/healthz")
    return None if status is None else status == 200


def _fetch(port: int, path: str) -> tuple[int | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_FETCH_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()


class _Server(ThreadingHTTPServer):
    """Threads and connections are bounded, and so is the time in which a request must have come as a whole."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._open: dict[socket.socket, float] = {}
        self._reading: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= MOST_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        self._reading.add(request)
        super().process_request(request, client_address)

    def has_asked(self, request: socket.socket) -> None:
        """Take note that the request is here: the answer may take its time."""
        self._reading.discard(request)

    def shutdown_request(self, request: Any) -> None:
        self._reading.discard(request)
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the base class's signature
        """Say in the log, not on standard error, what went wrong with a request; one who has gone is no matter."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("http_failed")

    def service_actions(self) -> None:
        """Hang up on who takes too long to ask; between two connections, several times a second."""
        latest = time.monotonic() - REQUEST_SECONDS
        for request in [r for r in self._reading.copy() if self._open.get(r, latest) < latest]:
            self._reading.discard(request)
            with contextlib.suppress(OSError):  # it has gone by itself
                request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    get_metrics: Callable[[], bytes]
    get_health: Callable[[], tuple[bool, Health]]
    get_page: Callable[[], int | None]
    has_page: bool
    server: _Server
    timeout = REQUEST_SECONDS  # of one read or write

    def do_GET(self) -> None:
        self.server.has_asked(self.connection)
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            self._answer(200, METRICS_CONTENT_TYPE, type(self).get_metrics())
        elif path == "/healthz":
            well, about = type(self).get_health()
            body = json.dumps({"status": "ok" if well else "failing", **about}).encode()
            self._answer(200 if well else 503, "application/json", body)
        elif type(self).has_page:
            forward(self, type(self).get_page())
        else:
            self._answer(404, "text/plain", b"there are /metrics and /healthz\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        _log.debug("http", request=format % args)
