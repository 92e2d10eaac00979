"""``streamrecon keygen``: the keys that decide who may connect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.errors import ConfigError
from streamrecon.transport.keys import client_folder, make_client, make_server


def keygen(
    folder: Annotated[Path, typer.Argument(help="The daemon's key folder: security.curve_dir.")],
    client: Annotated[str | None, typer.Option(help="Make keys for a client of this name and authorize it.")] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="The client is a worker: it may take particles, not subscribe.")
    ] = False,
    control: Annotated[
        bool, typer.Option("--control", help="The client may command the session with ctl, not subscribe.")
    ] = False,
) -> None:
    """Make a daemon's keys, or with --client one client's.

    The daemon's come with keys for its own worker, and for subscribers and ctl on its host. A client gets the folder
    clients/NAME over a safe way (scp) and uses it with `streamrecon subscribe --curve`. To shut a client out, delete
    its file below authorized/: it is refused from its next connection on. For other keys delete clients/NAME, too, and
    make them anew.

    Examples: streamrecon keygen keys; streamrecon keygen keys --client display-wall

    Exit codes: 0 done; 2 keys of that name exist, the folder cannot be written, or the options do not fit.
    """
    console = Console(highlight=False, soft_wrap=True)
    with errors_as_exit_codes():
        if worker and control:
            raise ConfigError("--worker and --control: a key has one role; make two clients of different names")
        if client is None and (worker or control):
            raise ConfigError("--worker, --control: expected --client NAME beside it; say whose key it is")
        if client is None:
            written = make_server(folder)
        else:
            written = make_client(folder, client, "worker" if worker else "control" if control else "subscriber")
        for path in written:
            console.print(escape(str(path)))
        if client is None:
            console.print(f'set security.curve_dir = "{escape(str(folder))}" in config.toml')
        else:
            console.print(f"hand {escape(str(client_folder(folder, client)))} to {escape(client)}, over a safe way")
