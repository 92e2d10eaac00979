"""Reading config.toml: TOML syntax, unknown keys and bad values all come back as one ConfigError."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from streamrecon.config.model import Config
from streamrecon.errors import ConfigError


def load_config(path: Path | str) -> Config:
    """Read and validate a configuration file.

    Relative paths in it are taken from the file's own folder.

    Raises
    ------
    ConfigError
        The file is missing, is not TOML, or holds unknown keys or bad values; every one is listed.
    """
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a config.toml with -c"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(file)'}: {_in_words(e)}" for e in error.errors()]
        count = "1 error" if len(lines) == 1 else f"{len(lines)} errors"
        raise ConfigError(f"{path}: {count}\n" + "\n".join(lines)) from error
    base = path.resolve().parent
    session = config.session.model_copy(update={"output_dir": base / config.session.output_dir})
    watch = config.watch.model_copy(update={"root": base / config.watch.root})
    curve_dir = str(base / config.security.curve_dir) if config.security.curve_dir else ""
    security = config.security.model_copy(update={"curve_dir": curve_dir})
    secrets = {key: getattr(config.notify, key) for key in ("webhook_url_file", "smtp_password_file")}
    notify = config.notify.model_copy(update={key: str(base / name) for key, name in secrets.items() if name})
    return config.model_copy(update={"session": session, "watch": watch, "notify": notify, "security": security})


def _in_words(error: Any) -> str:
    """Return what is wrong with one key, and what was found there or may have been meant."""
    *table, key = error["loc"] or ("",)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(key), list(_names(table)), 1)
        what = "key" if table else "table"
        return (
            f"there is no such {what}; did you mean {'.'.join((*map(str, table), *near))}?"
            if near
            else (f"there is no such {what}; config.toml of the distribution lists all")
        )
    found = error["input"]
    shown = f", found {found!r}" if isinstance(found, str | int | float) else ""
    return f"{error['msg'].removeprefix('Value error, ')}{shown}"


def _names(table: list[str | int]) -> Iterator[str]:
    """Yield the keys of a table, or the tables if none is given."""
    model: Any = Config()
    for name in table:
        model = getattr(model, str(name), None)
    fields = getattr(type(model), "model_fields", None) or getattr(type(model), "__dataclass_fields__", {})
    yield from fields
