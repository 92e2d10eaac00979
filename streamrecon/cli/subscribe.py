"""``streamrecon subscribe``: follow a session from anywhere, and keep its maps if you like."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from streamrecon.cli.exit_codes import INTERRUPTED, errors_as_exit_codes
from streamrecon.cli.follow_options import Curve, Events, Follow, FollowedConfig, Snapshots, Timeout, Topics, Volumes
from streamrecon.client import (
    AssessmentMessage,
    ClientKeys,
    EventMessage,
    FscMessage,
    Message,
    PosesMessage,
    PreviewMessage,
    SessionMessage,
    StatusMessage,
    VolumeMessage,
    VolumeSubscriber,
)
from streamrecon.config import Config, load_config
from streamrecon.io import write_volume
from streamrecon.transport.keys import LOCAL_NAME, client_folder


def subscribe(
    config: FollowedConfig = None,
    events: Events = None,
    volumes: Volumes = None,
    snapshots: Snapshots = None,
    topic: Topics = None,
    save: Annotated[Path | None, typer.Option(help="Keep each kind of map in this folder as MRC.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many messages.")] = None,
    curve: Curve = None,
    timeout: Timeout = 10.0,
    follow: Follow = False,
    latest: Annotated[
        bool, typer.Option("--latest", help="If this end is slow, skip to the newest message of each topic.")
    ] = False,
) -> None:
    """Print a line for each message of a running session; Ctrl-C ends it.

    It may join at any time: first comes the last message of each topic, then what follows. The daemon never
    waits for it.

    Example: streamrecon subscribe -c config.toml --topic volume/full/ --save maps
    """
    console = Console(highlight=False, soft_wrap=True)
    with errors_as_exit_codes():
        subscriber = make_subscriber(
            config,
            events,
            volumes,
            snapshots,
            topic,
            curve=curve,
            timeout_seconds=timeout,
            reconnect=follow,
            latest_only=latest,
        )
        try:
            with subscriber as messages:
                for message in itertools.islice(messages, count):
                    console.print(describe(message))
                    if save is not None and isinstance(message, VolumeMessage):
                        console.print(f"         saved {escape(str(save_volume(save, message)))}")
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        finally:
            if subscriber.gaps:
                console.print(f"lost on the way: {subscriber.gaps}")


def make_subscriber(
    config: Path | None,
    events: str | None,
    volumes: str | None,
    snapshots: str | None,
    topics: list[str] | None,
    *,
    curve: Path | None,
    timeout_seconds: float,
    reconnect: bool = False,
    latest_only: bool = False,
) -> VolumeSubscriber:
    """Return a subscriber to a session: its configuration's endpoints, or the defaults, where none are given."""
    settings = load_config(config) if config is not None else Config()
    defaults, folder = settings.publish, settings.security.curve_folder
    if curve is None and folder is not None:
        curve = client_folder(folder, LOCAL_NAME)
    return VolumeSubscriber(
        events or defaults.events,
        volumes or defaults.volumes,
        snapshots or defaults.snapshots,
        topics=topics or (),
        timeout_seconds=timeout_seconds,
        reconnect=reconnect,
        latest_only=latest_only,
        curve=None if curve is None else ClientKeys.load(curve),
    )


def save_volume(folder: Path, message: VolumeMessage) -> Path:
    """Write a map under the name of its topic, atomically: the file is always a whole map, the newest."""
    path = folder / f"{message.topic.strip('/').replace('/', '_')}.mrc"
    write_volume(path, message.volume, message.header.voxel_size_angstrom)
    return path


def describe(message: Message) -> str:
    """Return one readable line of a message, in rich's markup."""
    header = message.header
    at = datetime.fromtimestamp(header.timestamp, UTC).strftime("%H:%M:%S")
    lead = f"[dim]{at}[/] [bold]{message.topic:<15}[/] "
    match message:
        case VolumeMessage(header=h):
            shape = "x".join(map(str, h.shape))
            text = f"{shape} at {h.voxel_size_angstrom:.3g} Å, {_progress(h.particles_seen, h.resolution_angstrom)}"
        case PreviewMessage(header=h):
            shape = "x".join(map(str, h.shape))
            text = f"{shape} in brief, {_progress(h.particles_seen, h.resolution_angstrom)}"
        case PosesMessage(header=h):
            text = f"batch {h.batch}: {h.shape[0]} poses from particle {h.first_particle} on"
        case FscMessage(header=h):
            text = f"{h.shape[0]} shells, {_progress(h.particles_seen, h.resolution_angstrom)} ({h.fsc_kind} halves)"
        case StatusMessage(header=h):
            rate = "" if h.images_per_second is None else f", {h.images_per_second:.0f} images/s"
            text = f"{h.stage}, {_progress(h.particles_seen, h.resolution_angstrom)}{rate}"
        case AssessmentMessage(header=h):
            masked = h.resolution_masked_angstrom
            text = "nothing known yet" if masked is None else f"{masked:.1f} Å under the mask"
            if h.angular_efficiency is not None:
                text += f", views {h.angular_efficiency:.2f}"
            if h.symmetry is not None:
                text += f", symmetry {h.symmetry.group}"
        case EventMessage(header=h):
            text = f"{h.kind}: {h.text}"
        case SessionMessage(header=h):
            text = f"{h.name} {h.state}" + (f" ({h.reason})" if h.reason else "")
        case _:
            text = ""
    return lead + escape(text)


def _progress(particles_seen: int, resolution_angstrom: float | None) -> str:
    resolution = "no resolution yet" if resolution_angstrom is None else f"{resolution_angstrom:.1f} Å"
    return f"{particles_seen} particles, {resolution}"
