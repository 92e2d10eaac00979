"""Options that every verb has which follows a running session."""

from pathlib import Path
from typing import Annotated

import typer

FollowedConfig = Annotated[
    Path | None, typer.Option("--config", "-c", help="Take the endpoints from this config.toml; else the defaults.")
]
Events = Annotated[str | None, typer.Option(help="Endpoint of the events socket. Default: tcp://127.0.0.1:8761.")]
Volumes = Annotated[str | None, typer.Option(help="Endpoint of the volumes socket. Default: tcp://127.0.0.1:8762.")]
Snapshots = Annotated[str | None, typer.Option(help="Endpoint of the snapshot socket. Default: tcp://127.0.0.1:8763.")]
Topics = Annotated[
    list[str] | None, typer.Option(help="Only topics that begin so, such as volume/preview/; repeatable.")
]
Curve = Annotated[
    Path | None,
    typer.Option(help="Folder of this client's keys, from keygen; else, with -c, those the daemon's host keeps."),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Give up after so many silent seconds.")]
Follow = Annotated[
    bool, typer.Option("--follow", help="Go on over restarts and from session to session, until Ctrl-C.")
]
