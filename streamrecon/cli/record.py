"""``streamrecon record``: keep a running session's stream in a file, to be replayed without a microscope."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streamrecon.cli.exit_codes import INTERRUPTED, errors_as_exit_codes
from streamrecon.cli.follow_options import Curve, Events, Follow, FollowedConfig, Snapshots, Timeout, Topics, Volumes
from streamrecon.cli.subscribe import make_subscriber
from streamrecon.transport.recording import Record, RecordingWriter

_GIB = 1 << 30


def record(
    out: Annotated[Path, typer.Argument(help="The recording; one that is there is gone on with.")],
    config: FollowedConfig = None,
    events: Events = None,
    volumes: Volumes = None,
    snapshots: Snapshots = None,
    topic: Topics = None,
    max_size: Annotated[float, typer.Option(min=1e-6, help="End before the file gets larger, GiB.")] = 20.0,
    curve: Curve = None,
    timeout: Timeout = 10.0,
    follow: Follow = False,
) -> None:
    """Record the stream of a running session, every message with the time it came, until the session ends.

    Start it at any time: the recording begins with the last message of each topic. It is one file that only
    grows; if it is cut short by a kill or a full disk, everything up to there can still be replayed.

    Example: streamrecon record grid7.rec -c config.toml, and later: streamrecon replay stream grid7.rec --speed 10
    """
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    count = 0
    with errors_as_exit_codes():
        subscriber = make_subscriber(
            config, events, volumes, snapshots, topic, curve=curve, timeout_seconds=timeout, reconnect=follow
        )
        with RecordingWriter(out, int(max_size * _GIB)) as writer, subscriber as messages:
            try:
                while True:
                    received = messages.next_received()
                    if not writer.append(Record(received.arrived, received.frames)):
                        console.print(f"{out} has reached {max_size:g} GiB; --max-size allows more")
                        break
                    count += 1
            except StopIteration:
                pass
            except KeyboardInterrupt:
                raise typer.Exit(INTERRUPTED) from None
            finally:
                lost = f", lost on the way: {subscriber.gaps}" if subscriber.gaps else ""
                console.print(f"{count} messages recorded, {out} has {writer.n_bytes / 1e6:.1f} MB{lost}")
