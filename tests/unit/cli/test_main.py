"""The command as a whole: its verbs, their help, and how they complain."""

import pytest
from typer.testing import CliRunner

from streamrecon.cli import exit_codes
from streamrecon.cli.main import _VERBS, app

WIDE = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
BAD = """
[session]
seed = -1
nmae = "typo"

[watch]
mode = "sometimes"

[nonsense]
x = 1
"""


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], env=WIDE)


def test_help_lists_every_verb_with_its_line():
    outcome = invoke("--help")
    assert outcome.exit_code == 0
    said = " ".join(outcome.output.split())
    for verb, line in _VERBS.items():
        assert f" {verb} {line}" in said


def test_no_arguments_give_the_help():
    assert invoke("--help").output.splitlines()[1:4] == invoke().output.splitlines()[1:4]


@pytest.mark.parametrize("verb", _VERBS)
def test_every_verb_explains_itself(verb):
    outcome = invoke(verb, "--help")
    assert outcome.exit_code == 0, outcome.output
    assert "Usage:" in outcome.output
    assert verb in outcome.output.splitlines()[1]
    assert "--help" in outcome.output


def test_version():
    outcome = invoke("--version")
    assert outcome.exit_code == 0
    assert outcome.output.split()[0] == "streamrecon"


def test_an_unknown_verb_is_refused():
    outcome = invoke("reconstuct")
    assert outcome.exit_code == 2
    assert "reconstuct" in outcome.output


@pytest.mark.parametrize("verb", ["run", "ingest", "worker", "subscribe"])
def test_a_bad_configuration_tells_every_error(tmp_path, verb):
    path = tmp_path / "config.toml"
    path.write_text(BAD)
    outcome = invoke(verb, "-c", path)
    assert outcome.exit_code == exit_codes.CONFIG
    for what in (str(path), "session.seed", "session.nmae", "watch.mode", "nonsense"):
        assert what in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("verb", ["run", "ingest", "worker"])
def test_a_missing_configuration_is_told(tmp_path, verb):
    outcome = invoke(verb, "-c", tmp_path / "none.toml")
    assert outcome.exit_code == exit_codes.CONFIG
    assert "none.toml" in outcome.output
    assert "-c" in outcome.output
