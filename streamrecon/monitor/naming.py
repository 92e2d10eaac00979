"""How metrics are named and made: base units (angstrom excepted), no label that grows, no created series."""

from __future__ import annotations

from typing import Protocol, TypeVar

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics

from streamrecon import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]

OTHER = "other"
_Metric_co = TypeVar("_Metric_co", covariant=True)


def one_of(value: str, known: tuple[str, ...]) -> str:
    """Return the value if it is a known label value, else "other": labels never grow."""
    return value if value in known else OTHER


class Maker(Protocol[_Metric_co]):
    """Makes a metric of a process."""

    def __call__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> _Metric_co:
        """Make it under the process's prefix."""
        ...


def makers(registry: CollectorRegistry, subsystem: str) -> tuple[Maker[Counter], Maker[Gauge]]:
    """Return what makes the counters and the gauges of one process."""

    def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"streamrecon_{subsystem}_{name}", text, labels, registry=registry)

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"streamrecon_{subsystem}_{name}", text, labels, registry=registry)

    return counter, gauge


def resident_memory(registry: CollectorRegistry, subsystem: str) -> None:
    """Make the gauge of this process's memory."""
    gauge = Gauge(
        f"streamrecon_{subsystem}_resident_memory_bytes",
        f"Memory of the {subsystem} process that is in RAM; it should stand still over hours.",
        registry=registry,
    )
    process = psutil.Process()
    gauge.set_function(lambda: float(process.memory_info().rss))


def info_of(registry: CollectorRegistry, subsystem: str) -> None:
    """Say which release this process runs."""
    info = Info(f"streamrecon_{subsystem}_build", "Which release this process runs.", registry=registry)
    info.info({"version": __version__})
