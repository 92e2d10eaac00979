"""The page's process beside the supervisor's, and the front door that passes on to it."""

import http.client
import os
import signal
import sys
import threading
import time

import psutil
import pytest

from streamrecon.monitor.companion import Companion
from streamrecon.monitor.server import MonitorServer

# answers with its own process number, or streams for ever
PAGE = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path != "/missing" else 404)
        self.send_header("Content-Type", "text/event-stream" if self.path == "/events" else "text/plain")
        self.send_header("X-Private", "not for everybody")
        self.end_headers()
        self.wfile.write(b"%d %s\\n" % (os.getpid(), self.headers.get("Host", "").encode()))
        while self.path == "/events":
            self.wfile.write(b"data: {}\\n\\n")
            time.sleep(0.05)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def get(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


@pytest.fixture
def door():
    """Return a page that lives, and the port of the front door before it."""
    with (
        Companion(lambda port: [sys.executable, "-c", PAGE, str(port)], first_seconds=0.05) as page,
        MonitorServer("127.0.0.1:0", lambda: b"metrics", lambda: (True, {}), lambda: page.port) as server,
    ):
        wait_for(lambda: get(server.port, "/")[0].status == 200)
        yield page, server.port


def test_what_is_not_ours_is_passed_on_and_back(door):
    page, port = door
    response, body = get(port, "/", Host="there:1")
    assert body == b"%d there:1\n" % page.pid
    assert "X-Private" not in response.headers
    assert get(port, "/missing")[0].status == 404
    assert get(port, "/metrics")[1] == b"metrics"


def test_a_stream_comes_piece_by_piece(door):
    connection = http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)
    connection.request("GET", "/events")
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "text/event-stream"
    got = b""
    while got.count(b"data: {}") < 3:
        got += response.read1(1000)
    connection.close()


def test_a_killed_page_is_started_again_and_metrics_never_miss_it(door):
    page, port = door
    first = page.pid
    os.kill(first, signal.SIGKILL)
    assert get(port, "/metrics")[1] == b"metrics"
    again = wait_for(lambda: page.pid if page.pid not in (None, first) else None)
    wait_for(lambda: get(port, "/")[1].startswith(b"%d" % again))


def test_a_page_that_cannot_start_costs_nothing_but_the_page():
    with (
        Companion(lambda port: [sys.executable, "-c", "raise SystemExit(2)"], first_seconds=0.05) as page,
        MonitorServer("127.0.0.1:0", lambda: b"metrics", lambda: (True, {}), lambda: page.port) as server,
    ):
        response = wait_for(lambda: (r := get(server.port, "/")[0]).status == 503 and r)
        assert response.headers["Refresh"]
        assert get(server.port, "/metrics")[1] == b"metrics"
        assert get(server.port, "/healthz")[0].status == 200


def test_it_is_gone_when_we_leave():
    before = threading.active_count()
    with Companion(lambda port: [sys.executable, "-c", "import time; time.sleep(600)"]) as page:
        process = psutil.Process(wait_for(lambda: page.pid))
    assert not process.is_running()
    assert threading.active_count() <= before
