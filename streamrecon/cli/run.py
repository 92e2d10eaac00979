"""``streamrecon run``: ingest and worker on this host, supervised."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import structlog
import typer
from prometheus_client import CollectorRegistry

from streamrecon.cli import exit_codes
from streamrecon.cli.writable import check_writable
from streamrecon.config import load_config
from streamrecon.monitor.companion import Companion
from streamrecon.monitor.disk import DiskWatch
from streamrecon.monitor.logs import configure_logging
from streamrecon.monitor.notify import Notifier
from streamrecon.monitor.ports import port_of
from streamrecon.monitor.server import MonitorServer
from streamrecon.monitor.supervisor import Supervisor
from streamrecon.notices.service import NoticeService


def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml.")],
    until_idle: Annotated[
        float | None,
        typer.Option(min=0, help="End once nothing new has come for that many seconds and everything is folded."),
    ] = None,
) -> None:
    """Watch, reconstruct and publish until told to stop; the live page is on monitor.bind, for a browser.

    Under systemd (Type=notify) it says when both halves are up, and keeps the watchdog quiet while they answer.
    One signal (Ctrl-C) stops in order, a second one kills; a process that dies is started again. A terminal that is
    closed stops it, too: start it with nohup, or under systemd, where it should outlive that.

    Example: streamrecon run -c config.toml

    Exit codes: see docs/architecture.md.
    """
    with exit_codes.errors_as_exit_codes():
        settings = load_config(config)
        configure_logging(settings.log, "run")
        check_writable(settings.session.output_dir)
        path = str(config.resolve())
        idle = [] if until_idle is None else ["--until-idle", str(until_idle)]

        def verb_command(verb: str, *more: str) -> list[str]:
            return [sys.executable, "-m", "streamrecon", verb, "-c", path, *more]

        def command(verb: str, port: int, *more: str) -> list[str]:
            return verb_command(verb, "--metrics-bind", f"127.0.0.1:{port}", *more)

        publish = settings.publish
        endpoints = (
            publish.events,
            publish.volumes,
            publish.snapshots,
            settings.feed.endpoint,
            settings.control.endpoint,
        )
        own_ports = {port_of(endpoint) for endpoint in (*endpoints, settings.monitor.bind)}
        supervisor = Supervisor(
            lambda port: command("ingest", port, *idle),
            lambda port: command("worker", port),
            registry=CollectorRegistry(),
            permanent_exit_codes=exit_codes.PERMANENT,
            notifier=Notifier(os.environ),
            avoid_ports=own_ports,
        )
        signal.signal(signal.SIGINT, supervisor.request_stop)
        signal.signal(signal.SIGTERM, supervisor.request_stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup(1)
            signal.signal(signal.SIGHUP, supervisor.request_stop)
        folders = {"output_dir": settings.session.output_dir, "watch_root": settings.watch.root}
        with ExitStack() as stack:
            if settings.notify.wanted:
                count = supervisor.metrics.notice
                notices = NoticeService(settings, os.environ, supervisor.metrics_text, count=count)
                supervisor.failed = stack.enter_context(notices).failure
            page = Companion(lambda port: verb_command("page", "--bind", f"127.0.0.1:{port}"), avoid_ports=own_ports)
            show = (lambda: page.port) if settings.monitor.page else None
            stack.enter_context(MonitorServer(settings.monitor.bind, supervisor.metrics_text, supervisor.health, show))
            if settings.monitor.page:
                stack.enter_context(page)
                structlog.get_logger(__name__).info("page", url=f"http://{settings.monitor.bind}")
            stack.enter_context(DiskWatch(folders, supervisor.metrics.filesystem))
            code = supervisor.run()
    raise typer.Exit(code)
