"""Reference pages made from the code: the configuration from its models, the command line from its commands."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import typer

from streamrecon.cli.main import app
from streamrecon.config.model import Config


def configuration_page(path: Path) -> str:
    """Return the page of config.toml: what may stand there from the models, what it means from the file's comments."""
    text = path.read_text(encoding="utf-8")
    schema = Config.model_json_schema()
    meanings, defaults = _meanings(text), tomllib.loads(text)
    lines = [
        "# Configuration",
        "",
        "Every key of `config.toml`, made from the models that read it and the comments of the file that is delivered. "
        "Keep what you change, leave out the rest; `streamrecon status -c config.toml` tells every error at once. "
        "Relative paths are taken from the file's folder.",
    ]
    for table, reference in schema["properties"].items():
        model = schema["$defs"][reference["$ref"].rsplit("/", 1)[1]]
        summary = model.get("description", "").split("\n")[0].removeprefix(f"[{table}]: ")
        lines += [
            "",
            f"## [{table}]",
            "",
            summary[:1].upper() + summary[1:],
            "",
            "| key | default | may be | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for key, field in model["properties"].items():
            default = _toml(defaults[table][key])
            meaning = meanings.get((table, key), "")
            lines.append(f"| `{key}` | `{default}` | {_allowed(field)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def _meanings(text: str) -> dict[tuple[str, str], str]:
    """Return each key's comment; one that stands over several keys belongs to all of them."""
    meanings: dict[tuple[str, str], str] = {}
    table, comment, fresh = "", "", True
    for line in text.splitlines():
        if line.startswith("["):
            table, comment, fresh = line.strip("[] "), "", True
        elif line.startswith("#"):
            comment = line[1:].strip() if fresh else f"{comment} {line[1:].strip()}"
            fresh = False
        elif "=" in line:
            meanings[table, line.split("=")[0].strip()] = comment
            fresh = True
    return meanings


def _allowed(field: dict[str, Any]) -> str:
    """Return in words what a JSON Schema allows."""
    if "enum" in field:
        return ", ".join(f"`{_toml(v)}`" for v in field["enum"])
    kind = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}.get(
        field.get("type", ""), "list" if field.get("type") == "array" else "text"
    )
    if field.get("format") == "path":
        kind = "path"
    bounds = [
        f"{sign} {field[name]:g}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in field
    ]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def cli_page() -> str:
    """Return the page of the command line: each verb's help, its arguments and its options."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="streamrecon")
    lines = [
        "# Command line",
        "",
        "Made from the commands themselves; `streamrecon VERB --help` shows the same. Exit codes: "
        "[architecture](../architecture.md#exit-codes).",
    ]
    for name in root.list_commands(context):  # type: ignore[attr-defined]  # the root is a group
        command = root.get_command(context, name)  # type: ignore[attr-defined]  # the root is a group
        lines += _command(command, f"streamrecon {name}", 2)
    return "\n".join(lines) + "\n"


def _command(command: Any, path: str, level: int) -> list[str]:
    help_text = inspect.cleandoc(command.help or command.short_help or "")
    lines = ["", f"{'#' * level} {path}", "", *_paragraphs(help_text)]
    commands = getattr(command, "commands", None)
    if commands:
        for name, inner in commands.items():
            lines += _command(inner, f"{path} {name}", level + 1)
        return lines
    rows = [_row(p) for p in command.params if p.name != "help"]
    return [*lines, "", "| | default | meaning |", "| --- | --- | --- |", *rows]


def _paragraphs(text: str) -> list[str]:
    """Return the help as Markdown: a line that is a command becomes code."""
    out: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if found := re.match(r"(Example): (streamrecon .*)", stripped):
            out += ["", f"{found[1]}: `{found[2]}`", ""]
        elif stripped.startswith("streamrecon ") and " -" in stripped:
            out += ["", f"    {stripped}", ""]
        else:
            out.append(stripped.replace("<", "&lt;"))
    return out


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper()}`" + (
            "" if parameter.required else " (may be left out)"
        )
    else:
        names = ", ".join(f"`{n}`" for n in parameter.opts)
    default = parameter.default
    plain = not (default is None or default is False or callable(default) or default == [] or parameter.required)
    shown = f"`{getattr(default, 'value', default)}`" if plain else ""
    if str(shown).startswith("`Sentinel"):
        shown = ""
    return f"| {names} | {shown} | {_cell(getattr(parameter, 'help', None) or '')} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
