"""Every key of config.toml is either set live or says why not; a value is checked as the file is."""

import tomllib
from pathlib import Path

import pytest

from streamrecon.config import Config
from streamrecon.config.live import LIVE_KEYS, all_keys, why_not_live, with_live_value
from streamrecon.errors import ConfigError

RAW = tomllib.loads((Path(__file__).parents[3] / "config.toml").read_text(encoding="utf-8"))
EVERY_KEY = [f"{table}.{name}" for table, values in RAW.items() for name in values]


def test_all_keys_are_those_of_the_file():
    assert sorted(all_keys(Config())) == sorted(EVERY_KEY)


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_key_has_an_answer(key):
    value = all_keys(Config())[key]
    if key in LIVE_KEYS:
        assert why_not_live(key) is None
        assert with_live_value(Config(), key, value) == Config()
        return
    assert len(why_not_live(key)) > 20
    with pytest.raises(ConfigError, match="cannot be set while the worker runs: ") as caught:
        with_live_value(Config(), key, value)
    assert "config.toml" in str(caught.value) or "connect" in str(caught.value)


def test_what_the_map_depends_on_is_not_live():
    """A checkpoint made under another value would not fit the file any more."""
    from streamrecon.worker.record import compatibility_of

    shaping = {f"{table}.{name}" for table, values in compatibility_of(Config()).items() for name in values}
    assert "engine.maximum_resolution_angstrom" in shaping
    assert not shaping & set(LIVE_KEYS)


def test_one_value_changes_and_nothing_else():
    changed = with_live_value(Config(), "snapshot.every_seconds", 5)
    assert changed.snapshot.every_seconds == 5.0
    before, after = all_keys(Config()), all_keys(changed)
    assert {k for k in before if before[k] != after[k]} == {"snapshot.every_seconds"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("snapshot.every_images", 0),
        ("snapshot.every_images", 2.5),
        ("snapshot.every_images", True),
        ("snapshot.every_images", "500"),
        ("snapshot.every_seconds", -1),
        ("snapshot.every_seconds", None),
        ("checkpoint.every_seconds", float("nan")),
        ("log.level", "loud"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_and_says_what_stays(key, value):
    with pytest.raises(ConfigError, match=r"cannot be used: .*it stays"):
        with_live_value(Config(), key, value)


@pytest.mark.parametrize("key", ["", "snapshot", "snapshot.", "snapshot.every", "a.b.c", "__class__.x"])
def test_an_unknown_key_is_told_those_there_are(key):
    with pytest.raises(ConfigError, match=r"no such key; .*snapshot\.every_images"):
        with_live_value(Config(), key, 1)
