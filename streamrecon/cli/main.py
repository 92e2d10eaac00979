"""The ``streamrecon`` command: its verbs, each from its own file, imported only when it is used.

Importing every verb would make ``--help`` wait for compilers and plotting libraries.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import streamrecon

_VERBS = {
    "run": "Watch a folder, reconstruct and publish until told to stop.",
    "reconstruct": "Reconstruct the particles of a finished STAR or .cs file.",
    "simulate": "Write a simulated session to practise on.",
    "demo": "Simulated microscope, daemon and subscriber together, with a report at the end.",
    "subscribe": "Follow a running session from anywhere; keep its maps.",
    "record": "Keep a running session's stream in a file.",
    "replay": "Play back a finished session's folder, or a recorded stream.",
    "status": "What a session has seen, folded and set aside, and how far it is.",
    "quarantine": "List what was set aside; have it looked at again, or dismiss it.",
    "ctl": "Command a running session: pause, resume, snapshot, checkpoint, set, drain, stop.",
    "postprocess": "Two half maps to mask, corrected FSC, sharpened map; symmetry, local resolution.",
    "experiments": "The seed paper's experiments made again: nine methods, two peers, importance sampling.",
    "fsc": "Compare two maps: FSC, aligned first if asked.",
    "notify": "Tell people by chat or mail what happens in a session; run does so itself.",
    "keygen": "Make keys, so that only whom you know can connect.",
    "check": "Can this machine (or its GPU) do the work, is it right, how fast is it?",
    "ingest": "Only the ingesting half of run.",
    "worker": "Only the reconstructing half of run.",
    "page": "Only the live page of run.",
}


class _LazyGroup(TyperGroup):
    """Lists verbs without importing them; the context and formatter are the command line library's own."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # the base class's signature
        return list(_VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  # the same
        if cmd_name not in _VERBS:
            return None
        function = getattr(importlib.import_module(f"streamrecon.cli.{cmd_name}"), cmd_name)
        if isinstance(function, typer.Typer):  # a verb with verbs of its own
            command = typer.main.get_command(function)
            command.name = cmd_name
            return command
        single = typer.Typer(add_completion=False, rich_markup_mode=None)  # markup would take [engine] for a style
        single.command(cmd_name, short_help=_VERBS[cmd_name])(function)
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # the same
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


app = typer.Typer(
    name="streamrecon",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help=(
        "Streaming 3D reconstruction for cryo-EM: keeps one map up to date while the microscope runs. "
        "Start with 'streamrecon demo', then 'streamrecon run -c config.toml'."
    ),
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"streamrecon {streamrecon.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hold the options common to all verbs."""
