import contextlib
import http.client
import http.server
import json
import socket
import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from streamrecon.errors import TransportError
from streamrecon.monitor import server as server_module
from streamrecon.monitor.metrics import SupervisorMetrics
from streamrecon.monitor.server import MonitorServer, fetch_metrics, registry_text


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_metrics_and_health_are_served(monkeypatch):
    monkeypatch.setattr(server_module, "_FETCH_SECONDS", 60.0)  # a busy machine has its time
    registry = CollectorRegistry()
    SupervisorMetrics(registry).restarted("worker")
    well = [True]
    with MonitorServer("127.0.0.1:0", registry_text(registry), lambda: (well[0], {"why": 1})) as server:
        response, body = get(server.port, "/metrics")
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert b'streamrecon_supervisor_process_restarts_total{process="worker"} 1.0' in body
        assert b"streamrecon_supervisor_process_restarts_total" in fetch_metrics(server.port)
        response, body = get(server.port, "/healthz")
        assert (response.status, json.loads(body)) == (200, {"status": "ok", "why": 1})
        well[0] = False
        response, body = get(server.port, "/healthz?x=1")
        assert (response.status, json.loads(body)["status"]) == (503, "failing")
        assert get(server.port, "/etc/passwd")[0].status == 404
    assert fetch_metrics(server.port) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed_over_http(method):
    asked = []
    with MonitorServer("127.0.0.1:0", lambda: b"", lambda: (asked.append(1) or True, {})) as server:
        for path in ("/metrics", "/healthz", "/control/stop"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            connection.request(method, path, body=b'{"verb": "stop"}')
            assert connection.getresponse().status == 501
            connection.close()
    assert asked == []


def test_an_occupied_port_is_told():
    with (
        MonitorServer("127.0.0.1:0", lambda: b"", lambda: (True, {})) as server,
        pytest.raises(TransportError, match=r"cannot be bound.*monitor\.bind"),
    ):
        MonitorServer(f"127.0.0.1:{server.port}", lambda: b"", lambda: (True, {}))


@pytest.mark.parametrize("request_line", [b"GET /\xff\xfe HTTP/1.0", b"GET /a\x00b HTTP/1.0"])
def test_what_cannot_be_passed_on_is_the_asker_s_fault_and_makes_no_noise(capfd, request_line):
    page = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # never asked
    with (
        page,
        MonitorServer("127.0.0.1:0", lambda: b"", lambda: (True, {}), lambda: page.server_port) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(request_line + b"\r\n\r\n")
        assert connection.recv(1000).split()[1] == b"400"
    assert capfd.readouterr().err == ""


def test_who_hangs_up_before_the_answer_makes_no_noise(capfd):
    asked, gone = threading.Event(), threading.Event()

    def metrics():
        asked.set()
        gone.wait(60)
        return b"x" * 10_000_000  # more than fits into any socket's buffer

    with MonitorServer("127.0.0.1:0", metrics, lambda: (True, {})) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert asked.wait(60)
        gone.set()
        deadline = time.monotonic() + 60
        while server._server._open:
            assert time.monotonic() < deadline, "the connection is kept"
            time.sleep(0.02)
    assert capfd.readouterr().err == ""


def dripping(port):
    """Send a request byte by byte, without end; return once the server has hung up."""
    deadline = time.monotonic() + 60
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.settimeout(0.01)
        sock.sendall(b"GET /metrics HTTP/1.0\r\nX-Long: ")
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                try:
                    sock.sendall(b"x")
                    if sock.recv(1) == b"":
                        return
                except (ConnectionResetError, BrokenPipeError):
                    return
    raise AssertionError("it is still listened to")


def test_who_takes_too_long_to_ask_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.3)
    with MonitorServer("127.0.0.1:0", lambda: b"figures", lambda: (True, {})) as server:
        dripping(server.port)
        monkeypatch.setattr(server_module, "REQUEST_SECONDS", 60.0)  # on a busy machine 0.3 s pass before we have asked
        assert get(server.port, "/metrics")[1] == b"figures"


def test_connections_are_bounded_and_places_come_back(monkeypatch):
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 4)
    # nobody is hung up on for being slow
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 600.0)
    monkeypatch.setattr(server_module._Handler, "timeout", 600.0)
    with MonitorServer("127.0.0.1:0", lambda: b"figures", lambda: (True, {})) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        with contextlib.closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as fifth:
            assert fifth.recv(1) == b""
        assert fetch_metrics(server.port) is None
        for sock in idle:
            sock.close()
        deadline = time.monotonic() + 60
        while fetch_metrics(server.port) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
