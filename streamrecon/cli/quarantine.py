"""``streamrecon quarantine``: what was set aside, and what a person does about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.cli.tables import quarantine_table
from streamrecon.config import load_config
from streamrecon.errors import ConfigError
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.ledger_schema import QuarantineEntry, lock_path
from streamrecon.io.locks import is_locked


class Action(StrEnum):
    """What to do about what was set aside."""

    LIST = "list"
    RETRY = "retry"
    DISMISS = "dismiss"


def quarantine(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml.")],
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.LIST,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Files or particles as listed, or patterns such as 'grid2/*'; a file means all of it."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is open.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="List as JSON, for programs.")] = False,
) -> None:
    """List what was set aside, with reasons; have it looked at again; or mark it as seen to.

    retry makes ingest, which may be running, look again within seconds; what is still wrong comes back.
    dismiss keeps the entry and its time, but it no longer counts as open.

    Example: streamrecon quarantine -c config.toml retry 'grid2/*'

    Exit codes: 0 done; 2 the command line or a name does not fit; else see docs/architecture.md.
    """
    console = Console(highlight=False)
    with errors_as_exit_codes():
        path = load_config(config).session.output_dir / LEDGER_NAME
        if action is Action.LIST:
            with Ledger(path, access="read") as ledger:
                entries = _chosen(ledger.quarantined(), names or ["*"], path) if names else ledger.quarantined()
            if as_json:
                typer.echo(json.dumps([asdict(e) for e in entries], indent=2))
            elif entries:
                console.print(quarantine_table(entries))
            else:
                console.print("nothing was set aside")
            return
        if not names and not everything:
            raise ConfigError(f"{action.value}: expected names, found none; give them as listed, or --all")
        with Ledger(path, access="share") as ledger:
            open_entries = [e for e in ledger.quarantined() if action is Action.RETRY or e.dismissed_at is None]
            chosen = open_entries if everything else _chosen(open_entries, names or [], path)
            if action is Action.DISMISS:
                console.print(f"{ledger.dismiss((e.path, e.identity) for e in chosen)} dismissed")
                return
            ledger.ask_retry(_requests(chosen))
        running = is_locked(lock_path(path))
        when = "ingest looks again within seconds" if running else "ingest is not running: it looks when it starts"
        console.print(f"{len(chosen)} to be looked at again; {when}")


def _chosen(entries: Sequence[QuarantineEntry], names: Sequence[str], ledger: Path) -> list[QuarantineEntry]:
    """Return the entries that the names mean; each name must mean something."""
    chosen: dict[QuarantineEntry, None] = {}
    for name in names:
        # a name as it stands goes first: it may hold brackets
        found = [e for e in entries if name in (e.path, e.identity)] or [
            e for e in entries if fnmatchcase(e.path, name) or (e.identity and fnmatchcase(e.identity, name))
        ]
        if not found:
            raise ConfigError(
                f"{ledger}: expected {name!r} in quarantine, found {len(entries)} other entries; take the name "
                "from `streamrecon quarantine list`"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _requests(entries: Sequence[QuarantineEntry]) -> list[tuple[str, str]]:
    """Return what to ask for: one request for a file stands for all its particles."""
    whole = {e.path for e in entries if not e.identity}
    return list(dict.fromkeys((e.path, "" if e.path in whole else e.identity) for e in entries))
