"""``streamrecon replay``: a finished session's folder, or a recorded stream, once more."""

from __future__ import annotations

import itertools
import math
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streamrecon.cli.acceptance import check_session
from streamrecon.cli.exit_codes import INTERRUPTED, UNEXPECTED, errors_as_exit_codes
from streamrecon.cli.subscribe import describe
from streamrecon.cli.tables import duration
from streamrecon.config import Config, load_config
from streamrecon.errors import ConfigError
from streamrecon.simulate.replay import Mode, SessionReplayer
from streamrecon.simulate.replay_plan import ReplayPlan, plan_session
from streamrecon.transport.recording import read_recording
from streamrecon.transport.replayer import Endpoints, StreamReplayer
from streamrecon.transport.schema import Message

_SHOWN = 5

replay = typer.Typer(
    name="replay",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help=(
        "Play back what was. 'session' lets the files of a finished session appear again, for the daemon to take in: "
        "the acceptance test before a microscope depends on it. 'stream' serves a recording made by 'streamrecon "
        "record', for pages and clients: no daemon is needed."
    ),
)


@replay.command("session", short_help="Let the files of a finished session appear again in another folder.")
def replay_session(
    source: Annotated[Path, typer.Argument(help="The finished session: STAR or .cs files and their stacks.")],
    target: Annotated[
        Path, typer.Argument(help="Where they appear: what watch.root points to. New, or to go on with.")
    ],
    speed: Annotated[float, typer.Option(min=0.001, help="N: N times faster than recorded; inf: no pauses.")] = 1.0,
    max_gap: Annotated[float, typer.Option(min=0, help="Cut longer pauses of the session to so many seconds.")] = 300.0,
    spacing: Annotated[
        float | None,
        typer.Option(min=0, help="Ignore the recorded times but for the order: a stack every so many seconds."),
    ] = None,
    join_every: Annotated[
        int, typer.Option(min=1, help="A joined STAR file is written anew whenever so many more stacks have come.")
    ] = 20,
    mode: Annotated[
        Mode, typer.Option(help="hardlink: no disk space, same file system; auto: copy where links cannot be made.")
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would appear, and how long it takes.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="The daemon's config.toml: wait for it at the end, and hold it to account."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="With -c: MRC map to compare the daemon's with; aligned first.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=1, help="With -c: give the daemon so many seconds after the last file.")
    ] = 600.0,
) -> None:
    """Let a finished session appear again: each stack at its recorded time, then its STAR file, as when it was written.

    The times are the files' own (copy with 'cp -p' or 'rsync -t' to keep them). A STAR file of many stacks grows as
    they come. Run the same command again after a stop: it goes on where it was. SOURCE is only read.

    Example, an acceptance test in two terminals:
    streamrecon run -c config.toml
    streamrecon replay session /archive/grid7 incoming --speed 20 -c config.toml --reference grid7.mrc

    Exit codes: 0 done, and with -c every particle is in the map or in quarantine; 1 with -c some are not; else see
    docs/architecture.md.
    """
    console = Console(highlight=False, stderr=True, soft_wrap=True)
    with errors_as_exit_codes():
        if reference is not None and config is None:
            raise ConfigError("--reference: expected -c config.toml beside it, found none; its map is compared")
        settings = None if config is None else load_config(config)
        with console.status("Reading the session's files"):
            plan = plan_session(source, join_every_stacks=join_every, spacing_seconds=spacing)
        replayer = SessionReplayer(plan, target, speed=speed, max_gap_seconds=max_gap, mode=mode)
        _describe_plan(console, plan, replayer, spacing)
        if dry_run:
            return
        _play(console, plan, replayer, target)
        if settings is None:
            return
        passed = check_session(settings, plan.particles_of, reference, patience, Console(highlight=False))
    raise typer.Exit(0 if passed else UNEXPECTED)


def _describe_plan(console: Console, plan: ReplayPlan, replayer: SessionReplayer, spacing: float | None) -> None:
    stacks = sum(a.kind == "stack" for a in plan.arrivals)
    manifests = sum(a.kind == "manifest" for a in plan.arrivals)
    console.print(f"{plan.n_particles} particles in {stacks} stacks, {manifests} STAR or .cs files")
    console.print(f"the session took {duration(plan.seconds)}; the replay takes {duration(replayer.seconds)}")
    if len(replayer.waiting) < len(plan.arrivals):
        console.print(f"going on: {len(replayer.waiting)} of {len(plan.arrivals)} arrivals are left")
    if spacing is None and stacks > 1 and plan.seconds < 1.0:
        console.print(
            "all files have the same time, as after a copy without 'cp -p': everything comes at once; "
            "--spacing 10 lets a stack come every ten seconds"
        )
    for path, reason in itertools.islice(plan.unread.items(), _SHOWN):
        console.print(f"left out: {path} ({reason})")
    if len(plan.unread) > _SHOWN:
        console.print(f"left out: {len(plan.unread) - _SHOWN} more")
    if plan.missing:
        console.print(f"{len(plan.missing)} stacks are named but not there, {plan.missing[0]} the first of them")


def _play(console: Console, plan: ReplayPlan, replayer: SessionReplayer, target: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Progress(*columns, console=console) as progress:
            done = len(plan.arrivals) - len(replayer.waiting)
            task = progress.add_task("Arrivals", total=len(plan.arrivals), completed=done)
            replayer.run(lambda _: progress.advance(task))
    except KeyboardInterrupt:
        console.print(f"Stopped. {target} holds whole files only; the same command goes on from here.")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@replay.command("stream", short_help="Serve a recorded stream again, for pages and clients.")
def replay_stream(
    recording: Annotated[Path, typer.Argument(help="A file made by 'streamrecon record'.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Bind the endpoints of this config.toml; else the defaults."),
    ] = None,
    events: Annotated[str | None, typer.Option(help="Bind the events socket here.")] = None,
    volumes: Annotated[str | None, typer.Option(help="Bind the volumes socket here.")] = None,
    snapshots: Annotated[str | None, typer.Option(help="Bind the snapshot socket here.")] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="N: N times faster than recorded; inf: no pauses.")] = 1.0,
    max_gap: Annotated[float, typer.Option(min=0, help="Cut longer pauses to so many seconds.")] = math.inf,
    repeat: Annotated[bool, typer.Option("--repeat", help="Begin again at the end, until Ctrl-C.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line for each message.")] = False,
) -> None:
    """Serve a recorded stream on the sockets of a daemon, at its own pace or faster.

    Subscribers, pages and scripts see a session like any other: they may join late, and ask for its state. Only
    session ids and sequence numbers are new.

    Example: streamrecon replay stream grid7.rec --speed 10, and beside it: streamrecon subscribe --save maps
    """
    console = Console(highlight=False, soft_wrap=True)

    def say(message: Message) -> None:
        if not quiet:
            console.print(describe(message))

    with errors_as_exit_codes():
        defaults = (load_config(config) if config is not None else Config()).publish
        endpoints = Endpoints(events or defaults.events, volumes or defaults.volumes, snapshots or defaults.snapshots)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while True:
                replayer = StreamReplayer(endpoints, speed=speed, max_gap_seconds=max_gap, on_message=say)
                count = replayer.run(read_recording(recording))
                console.print(f"{count} messages replayed")
                if not repeat or count == 0:
                    return
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        finally:
            signal.signal(signal.SIGTERM, before)
