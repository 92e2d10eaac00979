"""Reading config.toml: TOML syntax, unknown keys and bad values all come back as one ConfigError."""

from __future__ import annotations

import tomllib
from pathlib import Path

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
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(file)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path}: {len(lines)} error(s)\n" + "\n".join(lines)) from error
    base = path.resolve().parent
    session = config.session.model_copy(update={"output_dir": base / config.session.output_dir})
    watch = config.watch.model_copy(update={"root": base / config.watch.root})
    curve_dir = str(base / config.security.curve_dir) if config.security.curve_dir else ""
    security = config.security.model_copy(update={"curve_dir": curve_dir})
    secrets = {key: getattr(config.notify, key) for key in ("webhook_url_file", "smtp_password_file")}
    notify = config.notify.model_copy(update={key: str(base / name) for key, name in secrets.items() if name})
    return config.model_copy(update={"session": session, "watch": watch, "notify": notify, "security": security})
