"""``streamrecon status``: where a session stands, whether its daemon runs or not."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamrecon.cli.exit_codes import ATTENTION, errors_as_exit_codes
from streamrecon.cli.tables import duration, quarantine_table
from streamrecon.config import Config, load_config
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.ledger_schema import QuarantineEntry, lock_path
from streamrecon.io.locks import is_locked
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.worker.loop import SNAPSHOT_FOLDER
from streamrecon.worker.main import CHECKPOINT_FOLDER, LOCK_NAME

_FORMAT = 1
_MOST_LINES = 20


def status(
    config: Annotated[Path, typer.Option("--config", "-c", help="The session's config.toml.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 8 if something waits for a person; see below.")
    ] = False,
) -> None:
    """Show what the session has seen, folded and set aside, how far behind it is, and how good the map.

    Reads the ledger and the files in session.output_dir, and disturbs nobody.

    Example: streamrecon status -c config.toml --check || mail -s 'grid 7 waits for you' ann

    Exit codes: 0 the status could be read; 1 there is no session here; 2 the configuration cannot be used;
    3 the ledger is of another version; with --check also 8: there are orphans or open quarantine, or the ingester
    or the worker does not run while particles wait.
    """
    with errors_as_exit_codes():
        found = session_status(load_config(config), time.time())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)
    if check and found["attention"]:
        raise typer.Exit(ATTENTION)


def session_status(config: Config, now: float) -> dict[str, Any]:
    """Return everything about a session as JSON can hold it.

    Raises
    ------
    StateError
        There is no ledger, or it cannot be read.
    """
    output = config.session.output_dir
    path = output / LEDGER_NAME
    with Ledger(path, access="read") as ledger:
        counts = ledger.counts()
        orphans = [
            {"name": f.name, "reason": f.reason, "since": f.changed_at}
            for f in (*ledger.stacks("orphan"), *ledger.manifests("orphan"))
        ]
        entries = [asdict(entry) for entry in ledger.quarantined()]
        oldest = ledger.oldest_unfolded_at()
        session = {"id": ledger.session, "name": ledger.session_name}
        retries = len(ledger.retry_requests())
    checkpoint = CheckpointStore(output / CHECKPOINT_FOLDER).current_age(now)
    running = {"ingest": is_locked(lock_path(path)), "worker": is_locked(output / LOCK_NAME)}
    waiting = counts.particles["ready"] + counts.particles["queued"]
    attention = [f"{len(orphans)} orphans"] if orphans else []
    if counts.quarantine["open"]:
        attention.append(f"{counts.quarantine['open']} in quarantine")
    attention += [
        f"{name} does not run, {waiting} particles wait" for name, runs in running.items() if waiting > 0 and not runs
    ]
    return {
        "format": _FORMAT,
        "time": now,
        "session": session,
        "running": running,
        "attention": attention,
        "stacks": counts.stacks,
        "copies": counts.copies,
        "manifests": counts.manifests,
        "batches": counts.batches,
        "particles": counts.particles,
        "lag_seconds": 0.0 if oldest is None else max(0.0, now - oldest),
        "reconstruction": _snapshot(output / SNAPSHOT_FOLDER / "status.json", now),
        "checkpoint": None if checkpoint is None else {"number": checkpoint[0], "age_seconds": checkpoint[1]},
        "orphans": orphans,
        "quarantine": {**counts.quarantine, "retries_asked": retries, "entries": entries},
    }


def _snapshot(path: Path, now: float) -> dict[str, Any] | None:
    """Return what the worker wrote beside its maps, None if there is nothing that can be read."""
    try:
        fields = json.loads(path.read_bytes())
        age = now - path.stat().st_mtime
    except (OSError, ValueError):
        return None
    return {**fields, "age_seconds": max(0.0, age)} if isinstance(fields, dict) else None


def _print(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    rows = {
        "session": f"{found['session']['name']} ({found['session']['id'][:8]})",
        "running": ", ".join(f"{name} {'up' if up else 'down'}" for name, up in found["running"].items()),
        **{what: _by_state(found[what]) for what in ("stacks", "manifests", "batches", "particles")},
        "lag": duration(found["lag_seconds"]),
    }
    if found["copies"]:
        rows["stacks"] += f"; {found['copies']} hold images of others, which count once"
    map_ = found["reconstruction"]
    if map_ is None:
        rows["map"] = "none yet"
    else:
        resolution = map_.get("resolution_angstrom")
        rows["stage"] = (
            f"{map_.get('stage', '-')}, {map_.get('particles_seen', '-')} particles in the map, "
            f"{map_.get('image_visits', '-')} image visits"
        )
        rows["resolution"] = (
            "none yet"
            if resolution is None
            else f"{resolution:.1f} Å at FSC {map_.get('fsc_threshold')}, {map_.get('fsc_kind')} halves"
        )
        if map_.get("symmetry_reason"):
            rows["symmetry"] = f"{map_.get('symmetry')}: {map_['symmetry_reason']}"
        if map_.get("challenge_reason"):
            rows["random starts"] = f"{map_.get('starts')} running; {map_['challenge_reason']}"
        rows["map"] = f"written {duration(map_['age_seconds'])} ago"
    checkpoint = found["checkpoint"]
    rows["checkpoint"] = (
        "none yet"
        if checkpoint is None
        else f"number {checkpoint['number']}, {duration(checkpoint['age_seconds'])} old"
    )
    aside = found["quarantine"]
    rows["quarantine"] = f"{aside['open']} open, {aside['dismissed']} dismissed"
    rows["attention"] = "; ".join(found["attention"]) or "nothing waits for a person"
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    for orphan in found["orphans"][:_MOST_LINES]:
        console.print(f"orphan: {escape(orphan['reason'])}")
    still_open = [QuarantineEntry(**e) for e in aside["entries"] if e["dismissed_at"] is None]
    if still_open:
        console.print(quarantine_table(still_open[:_MOST_LINES]))
    left = max(0, len(found["orphans"]) - _MOST_LINES) + max(0, len(still_open) - _MOST_LINES)
    if left:
        console.print(f"{left} more: --json has all")


def _by_state(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {state}" for state, n in counts.items()) or "none"
