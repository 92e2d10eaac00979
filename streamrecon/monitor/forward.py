"""Passing a request on to the page's process on the loopback, and its answer back as it comes.

Our own few lines: GET only, a fixed list of headers each way, and answers that go on for days (server-sent events).
"""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler

MOST_AT_ONCE = 128
# the page's stream says something every few seconds
_SILENT_SECONDS = 30.0
_PIECE_BYTES = 64 * 1024
_ASKED = ("Host", "Accept", "Accept-Encoding", "If-None-Match", "User-Agent")
_ANSWERED = (
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Content-Disposition",
    "Cache-Control",
    "ETag",
    "Vary",
    "Allow",
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "X-Accel-Buffering",
    "Referrer-Policy",
    "Cross-Origin-Resource-Policy",
    "Cross-Origin-Opener-Policy",
)
_NOT_NOW = b"The page is starting, or too many look at it. Reload in a moment; /metrics and /healthz are there.\n"
_places = threading.BoundedSemaphore(MOST_AT_ONCE)


def forward(handler: BaseHTTPRequestHandler, port: int | None) -> None:
    """Answer a GET with what the page's process answers; 503 while it does not, 400 to what cannot be passed on."""
    if port is None or not _places.acquire(blocking=False):
        _refuse(handler)
        return
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SILENT_SECONDS)
    try:
        headers = {name: handler.headers[name] for name in _ASKED if name in handler.headers}
        try:
            connection.request("GET", handler.path, headers=headers)
            answer = connection.getresponse()
        except (http.client.InvalidURL, ValueError):  # bytes that have no place in a path or a header
            handler.send_error(400)
            return
        except (OSError, http.client.HTTPException):
            _refuse(handler)
            return
        _pass_back(handler, answer)
    finally:
        connection.close()
        _places.release()


def finish(seconds: float) -> None:
    """Let answers that are under way come to their end, for at most so long."""
    deadline = time.monotonic() + seconds
    taken = 0
    while taken < MOST_AT_ONCE and _places.acquire(timeout=max(0.0, deadline - time.monotonic())):
        taken += 1
    for _ in range(taken):
        _places.release()


def _pass_back(handler: BaseHTTPRequestHandler, answer: http.client.HTTPResponse) -> None:
    handler.close_connection = True
    try:
        handler.send_response(answer.status)
        for name in _ANSWERED:
            if (value := answer.getheader(name)) is not None:
                handler.send_header(name, value)
        handler.end_headers()
        while piece := answer.read1(_PIECE_BYTES):
            handler.wfile.write(piece)
    except (OSError, http.client.HTTPException):
        return  # one of the two has gone; a browser notices and asks again


def _refuse(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(503)
    handler.send_header("Content-Type", "text/plain; charset=utf-8")
    handler.send_header("Content-Length", str(len(_NOT_NOW)))
    handler.send_header("Retry-After", "1")
    handler.send_header("Refresh", "2")
    handler.end_headers()
    handler.wfile.write(_NOT_NOW)
