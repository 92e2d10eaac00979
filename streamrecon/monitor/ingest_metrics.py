"""Ingest's metrics together with the HTTP server that shows them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from streamrecon.monitor.metrics import IngestMetricsExporter
from streamrecon.monitor.server import Health, MonitorServer, registry_text


class PrometheusIngestMetrics(IngestMetricsExporter):
    """Metrics of ingest, served for as long as the process lives.

    Parameters
    ----------
    bind : str
        ``host:port``; port 0 picks a free one.

    Attributes
    ----------
    server : MonitorServer

    Raises
    ------
    TransportError
        The address cannot be bound.
    """

    def __init__(self, bind: str) -> None:
        registry = CollectorRegistry()
        super().__init__(registry)
        self.server = MonitorServer(bind, registry_text(registry), _alive)


def _alive() -> tuple[bool, Health]:
    return True, {}
