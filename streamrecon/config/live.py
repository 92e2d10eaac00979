"""Which keys of config.toml can be changed while a worker runs, and why the others cannot."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from streamrecon.config.model import Config
from streamrecon.errors import ConfigError

LIVE_KEYS = ("snapshot.every_images", "snapshot.every_seconds", "checkpoint.every_seconds", "log.level")

_RESTART = "set it in config.toml and start again"
# of single keys first, then of whole tables
_WHY_NOT = {
    "checkpoint.keep": f"it is read when the worker starts: {_RESTART}",
    "engine.threads": f"the engine starts its threads once: {_RESTART}",
    "log.format": f"the log keeps one form, for whoever reads it: {_RESTART}",
    "session": f"it says which session this is: {_RESTART}, for a new session with another output_dir",
    "watch": f"it belongs to the ingester, which reads it when it starts: {_RESTART}",
    "input": "the map depends on it, and particles in the map were read under the present value: choose it before "
    "the session, in config.toml with a new session.output_dir",
    "feed": f"ingester and worker read it when they start: {_RESTART}",
    "engine": "the map depends on it, and a checkpoint made under one value does not fit another: choose it before "
    "the session, in config.toml with a new session.output_dir",
    "compute": f"the map is in the memory of the device that the worker started on: {_RESTART}",
    "publish": f"subscribers are connected to it: {_RESTART}",
    "notify": f"it belongs to `streamrecon run`, which reads it when it starts: {_RESTART}",
    "monitor": f"it is bound when the daemon starts: {_RESTART}",
    "assess": f"the history and the fit go by it: {_RESTART}",
    "security": f"who may connect is not changed over a connection: {_RESTART}",
    "control": f"it is bound when the worker starts: {_RESTART}",
}


def all_keys(config: Config) -> dict[str, object]:
    """Return every dotted key with its value."""
    values: dict[str, object] = {}
    for table in Config.model_fields:
        section = getattr(config, table)
        names = type(section).model_fields if isinstance(section, BaseModel) else section.__dataclass_fields__
        values |= {f"{table}.{name}": getattr(section, name) for name in names}
    return values


def why_not_live(key: str) -> str | None:
    """Return why a key of `all_keys` cannot be changed while the worker runs; None if it can."""
    if key in LIVE_KEYS:
        return None
    return _WHY_NOT.get(key) or _WHY_NOT.get(key.split(".", 1)[0], f"it is read when the daemon starts: {_RESTART}")


def with_live_value(config: Config, key: str, value: object) -> Config:
    """Return the configuration with one key changed, checked as config.toml is.

    Raises
    ------
    ConfigError
        There is no such key, it cannot be changed while the worker runs, or the value is none of its.
    """
    if key not in all_keys(config):
        raise ConfigError(f"{key}: there is no such key; those that can be set are {', '.join(LIVE_KEYS)}")
    if reason := why_not_live(key):
        raise ConfigError(f"{key}: cannot be set while the worker runs: {reason}")
    table, name = key.split(".")
    section: BaseModel = getattr(config, table)
    try:
        changed = type(section).model_validate({**section.model_dump(), name: value}, strict=True)
    except ValidationError as error:
        why = "; ".join(e["msg"] for e in error.errors())
        raise ConfigError(f"{key}: {value!r} cannot be used: {why}; it stays {getattr(section, name)!r}") from error
    return config.model_copy(update={table: changed})
