"""``streamrecon notify``: tell people what happens in a session, beside a daemon that was started without."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.cli.stopping import stop_on_signals
from streamrecon.config import load_config
from streamrecon.config.notify import NotifyConfig
from streamrecon.errors import ConfigError
from streamrecon.monitor.logs import configure_logging
from streamrecon.monitor.ports import port_of
from streamrecon.monitor.server import fetch_metrics
from streamrecon.notices.channels import channels_of
from streamrecon.notices.notice import Notice
from streamrecon.notices.service import NoticeService


def notify(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml, with its [notify].")],
    test: Annotated[bool, typer.Option("--test", help="Send one notice, say whether it arrived, and end.")] = False,
) -> None:
    """Follow a running session and tell people what [notify] names; Ctrl-C ends it.

    `streamrecon run` does this itself. This verb is for a daemon in two halves (ingest, worker), or to try the
    settings.

    Example: streamrecon notify -c config.toml --test

    Exit codes: see docs/architecture.md.
    """
    stop = stop_on_signals()
    with errors_as_exit_codes():
        settings = load_config(config)
        configure_logging(settings.log, "notify")
        if not settings.notify.wanted:
            raise ConfigError(f"{config}: [notify] names nobody; set notify.webhook or notify.email_to")
        if test:
            _try(settings.notify, settings.session.name)
            return
        port = port_of(settings.monitor.bind)
        with NoticeService(settings, os.environ, lambda: fetch_metrics(port), tell_silence=True):
            stop.wait()


def _try(config: NotifyConfig, session: str) -> None:
    """Send one notice by each channel, once.

    Raises
    ------
    ConfigError, DeliveryError
        Why it does not arrive.
    """
    notice = Notice("session_end", session, "this is a test; notices of this session will arrive here", time.time())
    for channel in channels_of(config, os.environ):
        channel.deliver(notice)
        typer.echo(f"{channel.name}: sent")
