"""``streamrecon ctl``: what a person does to a running session."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from streamrecon.cli.exit_codes import CONFIG, OK, UNEXPECTED, errors_as_exit_codes
from streamrecon.cli.follow_options import Curve
from streamrecon.config import Config, load_config
from streamrecon.errors import ConfigError
from streamrecon.transport.control_client import ControlClient
from streamrecon.transport.control_schema import Answer, Outcome, Scalar, Verb
from streamrecon.transport.keys import OPERATOR_NAME, ClientKeys, client_folder

_FORMAT = 1
_CODES: dict[Outcome, int] = {"done": OK, "accepted": OK, "refused": CONFIG, "failed": UNEXPECTED}


def ctl(
    verb: Annotated[Verb, typer.Argument(metavar="VERB", help="One of those above.", show_default=False)],
    key: Annotated[
        str | None, typer.Argument(help="For set and get: the key, as in config.toml: snapshot.every_seconds")
    ] = None,
    value: Annotated[str | None, typer.Argument(help="For set: the new value, as in config.toml.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The session's config.toml; else the defaults.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="The worker's control.endpoint, where it is not that of the configuration.")
    ] = None,
    curve: Curve = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON, for programs.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Give up after so many seconds without an answer.")] = 30.0,
) -> None:
    """Command the worker of a running session, and print what came of it.

    status: what it is doing; answered even while it is busy or hangs.

    pause, resume: stop folding, and go on. Nothing is lost: particles wait in the ledger. A pause ends with the worker.

    snapshot, checkpoint: write one now; answered when the files are there.

    get [KEY], set KEY VALUE: look at a value, or change one until the worker starts again. get alone shows those
    that can be set; with --json all.

    drain: take nothing new from the watched folder, fold what is queued, write everything and end.

    stop: end now, in order: a checkpoint, a snapshot, the poses. Started again, the session goes on where it was.

    Examples: streamrecon ctl -c config.toml pause; streamrecon ctl -c config.toml set snapshot.every_seconds 300

    Exit codes: 0 done, or accepted (drain, stop); 1 it was tried and failed; 2 it cannot be asked for like that: the
    answer says why; 4 no answer, a refused key, or another version.
    """
    with errors_as_exit_codes():
        _check_arguments(verb, key, value)
        settings = load_config(config) if config is not None else Config()
        where = endpoint or settings.control.endpoint
        if not where:
            raise ConfigError('control.endpoint is "": the worker takes no commands; set it and start the worker again')
        with ControlClient(where, curve=_keys(settings, curve)) as client:
            parsed = None if value is None else _parsed(value)
            answer = client.ask(verb, key or "", parsed, timeout_seconds=timeout)
    _print(answer, as_json)
    raise typer.Exit(_CODES[answer.outcome])


def _check_arguments(verb: Verb, key: str | None, value: str | None) -> None:
    if verb == "set" and (key is None or value is None):
        raise ConfigError("set: expected a key and a value, as in: set snapshot.every_seconds 300")
    if (verb not in ("set", "get") and key is not None) or (verb == "get" and value is not None):
        raise ConfigError(f"{verb}: found more arguments than it takes; see streamrecon ctl --help")


def _keys(config: Config, folder: Path | None) -> ClientKeys | None:
    curve_folder = config.security.curve_folder
    if folder is not None:
        return ClientKeys.load(folder)
    if curve_folder is None:
        return None
    own = client_folder(curve_folder, OPERATOR_NAME)
    if not own.is_dir():
        raise ConfigError(
            f"{own}: expected keys for control, found none; make them with `streamrecon keygen {curve_folder} --client "
            f"{OPERATOR_NAME} --control`, or give those of another client with --curve"
        )
    return ClientKeys.load(own)


def _parsed(text: str) -> Scalar:
    """Return a value as config.toml would read it; what is none there is a string without its quotes."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


def _print(answer: Answer, as_json: bool) -> None:
    if as_json:
        found = {"format": _FORMAT, "outcome": answer.outcome, "text": answer.text, "fields": answer.fields}
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    lead = "" if answer.outcome in ("done", "accepted") else f"{answer.outcome}: "
    console.print(escape(lead + answer.text))
