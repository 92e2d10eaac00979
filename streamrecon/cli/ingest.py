"""``streamrecon ingest``: watch the folder, keep the ledger, feed the worker."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry

from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.cli.stopping import stop_on_signals
from streamrecon.cli.writable import check_writable
from streamrecon.config import load_config
from streamrecon.config.model import Config
from streamrecon.ingest.serve import Ingest
from streamrecon.ingest.service import IngestService, IngestSettings
from streamrecon.monitor.logs import configure_logging
from streamrecon.monitor.metrics import IngestMetricsExporter
from streamrecon.monitor.server import Health, MonitorServer, registry_text
from streamrecon.transport.keys import ServerKeys

# A scan of a slow file server may take long; a loop that has not come round for so long hangs.
_HANGING_SECONDS = 300.0


def ingest(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml.")],
    until_idle: Annotated[
        float | None,
        typer.Option(min=0, help="End once nothing new has come for that many seconds and everything is folded."),
    ] = None,
    metrics_bind: Annotated[
        str | None, typer.Option(help="host:port for /metrics and /healthz. Default: they are not served.")
    ] = None,
) -> None:
    """Watch the folder and hand its particles to the worker, each exactly once.

    SIGINT or SIGTERM: finish the round, exit.

    Example, on the host of the files: streamrecon ingest -c config.toml --metrics-bind 127.0.0.1:8752

    Exit codes: see docs/architecture.md.
    """
    stop = stop_on_signals()
    with errors_as_exit_codes(), ExitStack() as stack:
        settings = load_config(config)
        configure_logging(settings.log, "ingest")
        check_writable(settings.session.output_dir)
        registry = CollectorRegistry()
        metrics = IngestMetricsExporter(registry)
        service_settings = ingest_settings(settings)
        service = Ingest(lambda: IngestService(service_settings, metrics), metrics)
        if metrics_bind is not None:

            def health() -> tuple[bool, Health]:
                waited = time.monotonic() - service.turn_at
                about = {"seconds_since_turn": round(waited, 1), "waiting_for": service.waiting_for}
                return waited < _HANGING_SECONDS, about

            stack.enter_context(MonitorServer(metrics_bind, registry_text(registry), health))
        service.run(stop, until_idle)


def ingest_settings(config: Config) -> IngestSettings:
    """Return what ingest needs of a configuration.

    Raises
    ------
    ConfigError
        Its keys cannot be used.
    """
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
        curve=ServerKeys.load(folder) if (folder := config.security.curve_folder) is not None else None,
    )
