"""`streamrecon ingest`: watch the folder, keep the ledger, feed the worker."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from streamrecon.config.load import load_config
from streamrecon.config.model import Config
from streamrecon.ingest.service import IngestService, IngestSettings


def ingest(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml.")],
    until_idle: Annotated[
        float | None,
        typer.Option(help="Stop once everything is folded and nothing new came for so many seconds.", min=0.0),
    ] = None,
    metrics_bind: Annotated[
        str | None, typer.Option(help="Serve ingest's metrics at this host:port; none by default.")
    ] = None,
) -> None:
    """Watch the folder and feed its particles to the worker, each exactly once."""
    settings = ingest_settings(load_config(config))
    metrics = None
    if metrics_bind is not None:
        from streamrecon.monitor.ingest_metrics import PrometheusIngestMetrics

        metrics = PrometheusIngestMetrics(metrics_bind)
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a signal handler's signature
        stop.set()

    service = IngestService(settings, metrics)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    service.run(stop, until_idle)


def ingest_settings(config: Config) -> IngestSettings:
    """Return what ingest needs of a configuration."""
    return IngestSettings(
        root=config.watch.root,
        output_dir=config.session.output_dir,
        session_name=config.session.name,
        manifest_patterns=config.watch.manifest_patterns,
        watch_mode=config.watch.mode,
        settle_seconds=config.watch.settle_seconds,
        scan_seconds=config.watch.scan_seconds,
        orphan_seconds=config.watch.orphan_seconds,
        require_ctf=config.input.ctf == "require",
        endpoint=config.feed.endpoint,
        batch_size=config.feed.batch_size,
        batch_wait_seconds=config.feed.batch_wait_seconds,
        lease_seconds=config.feed.lease_seconds,
    )
