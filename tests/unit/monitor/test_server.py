import http.client
import json

import pytest
from prometheus_client import CollectorRegistry

from streamrecon.errors import TransportError
from streamrecon.monitor.metrics import SupervisorMetrics
from streamrecon.monitor.server import MonitorServer, fetch_metrics, registry_text


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_metrics_and_health_are_served():
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
