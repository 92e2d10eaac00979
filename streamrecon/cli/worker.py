"""``streamrecon worker``: reconstruct what the ingester hands out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.cli.stopping import stop_on_signals
from streamrecon.cli.writable import check_writable
from streamrecon.config import load_config
from streamrecon.monitor.logs import configure_logging
from streamrecon.worker.main import run_worker


def worker(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml.")],
    metrics_bind: Annotated[
        str | None, typer.Option(help="host:port for /metrics and /healthz. Default: they are not served.")
    ] = None,
) -> None:
    """Take batches from the ingester, reconstruct, publish; resume from the last checkpoint.

    SIGINT or SIGTERM: finish the batch, checkpoint, exit.

    Example, on the host that computes: streamrecon worker -c config.toml --metrics-bind 127.0.0.1:8753

    Exit codes: see docs/architecture.md.
    """
    # here and not above: other verbs should not wait for the numerics to be imported
    from streamrecon.worker.engine import make_engine

    stop = stop_on_signals()
    with errors_as_exit_codes():
        settings = load_config(config)
        configure_logging(settings.log, "worker")
        check_writable(settings.session.output_dir)
        run_worker(settings, make_engine, stop, metrics_bind=metrics_bind)
