"""The one list of all metrics: which group each process serves, and every family in it.

What needs to know what exists (the reference, the tests of rules, dashboards and runbook) asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from streamrecon.monitor.control_metrics import ControlMetrics
from streamrecon.monitor.metrics import IngestMetricsExporter, SupervisorMetrics, WorkerMetrics

GROUPS: Mapping[str, Callable[[CollectorRegistry], object]] = {
    "supervisor": SupervisorMetrics,
    "ingest": IngestMetricsExporter,
    "worker": WorkerMetrics,
    "control": ControlMetrics,
}


@dataclass(frozen=True)
class Family:
    """One metric as it stands on the page.

    Attributes
    ----------
    name : str
        As in a query; a histogram's without ``_bucket``, ``_sum`` and ``_count``.
    type : str
        "counter", "gauge", "histogram" or "info".
    help : str
    series : tuple of str
        Names of all its series.
    labels : dict of str to tuple of str
        Every value of every label, a histogram's ``le`` and an info's left out.
    """

    name: str
    type: str
    help: str
    series: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]


def families(process: str) -> Iterator[Family]:
    """Return every metric of a process, in the order of its definition."""
    registry = CollectorRegistry()
    GROUPS[process](registry)
    for metric in registry.collect():
        yield _family(metric)


def series_names() -> frozenset[str]:
    """Return the name of every series of every process."""
    return frozenset(name for process in GROUPS for family in families(process) for name in family.series)


def example_page() -> bytes:
    """Return a /metrics page as `streamrecon run` serves it before anything has happened."""
    texts = []
    for group in GROUPS.values():
        registry = CollectorRegistry()
        group(registry)
        texts.append(generate_latest(registry))
    return b"".join(texts)


def _family(metric: Metric) -> Family:
    labels: dict[str, dict[str, None]] = {}
    series: dict[str, None] = {}
    for sample in metric.samples:
        series[sample.name] = None
        for label, value in sample.labels.items():
            if label != "le" and metric.type != "info":
                labels.setdefault(label, {})[value] = None
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    return Family(
        metric.name + suffix,
        metric.type,
        metric.documentation,
        tuple(series),
        {label: tuple(values) for label, values in labels.items()},
    )
