"""``streamrecon page``: the live page of a session, which ``run`` starts and serves on ``monitor.bind``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.cli.status import session_status
from streamrecon.cli.stopping import stop_on_signals
from streamrecon.config import load_config
from streamrecon.monitor.logs import configure_logging


def page(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml.")],
    bind: Annotated[str, typer.Option(help="host:port to serve on.")] = "127.0.0.1:8751",
) -> None:
    """Serve the live page alone; `streamrecon run` does this by itself on monitor.bind.

    Reads the published sockets and the ledger, and changes nothing.

    Example: streamrecon page -c config.toml --bind 127.0.0.1:8751

    Exit codes: see docs/architecture.md.
    """
    # here and not above: `run` imports no web server
    from streamrecon.page.serve import run_page, step_back

    stop = stop_on_signals()
    with errors_as_exit_codes():
        settings = load_config(config)
        configure_logging(settings.log, "page")
        step_back()
        run_page(settings, bind, lambda: session_status(settings, time.time()), stop)
