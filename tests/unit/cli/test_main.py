"""The command as a whole: its verbs, their help, and how they complain."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from streamrecon.cli import exit_codes
from streamrecon.cli.main import _VERBS, app
from streamrecon.io import write_volume

WIDE = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
COARSE = ("--box", 16, "--pixel-size", 15)
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
    usage = outcome.output.split("\n\n")[0]
    assert usage.startswith("Usage:")
    assert verb in usage
    assert "--help" in outcome.output


def commands(group):
    """Yield every verb, and those below one that has verbs of its own."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from (f"{name} {below}" for below in commands(command))
        else:
            yield name


@pytest.mark.parametrize("verb", list(commands(typer.main.get_command(app))))
def test_help_has_an_example_and_says_all_that_was_written(verb):
    """Also what stands in brackets, as the names of configuration tables do."""
    command = typer.main.get_command(app)
    for name in verb.split():
        command = command.get_command(None, name)
    said = "".join(invoke(*verb.split(), "--help").output.split())
    written = [command.help, *(parameter.help for parameter in command.params)]
    assert [text for text in written if text and "".join(text.split()) not in said] == []
    assert f"streamrecon{''.join(verb.split())}" in said.partition("Example")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("simulate", "{}/new", "--box", 33), 2, "--box: expected an even number"),
        (("simulate", "{}/new", "--snr", 0, "--box", 16), 2, "SNR above 0"),
        (("simulate", "{}/new", "--model", "{}/none.pdb"), 5, "none.pdb: expected a PDB"),
        (("simulate", "{}", *COARSE), 2, "expected an empty or new folder"),
        (("simulate", "{}/file/below", *COARSE), 1, "check the path, its permissions"),
        (("reconstruct", "{}", "-o", "{}/out"), 5, "found a folder"),
        (("reconstruct", "{}/none.star", "-o", "{}/out"), 5, "none.star: cannot be read"),
        (("replay", "stream", "{}/none.rec"), 5, "none.rec: cannot be read"),
        (("fsc", "{}/8.mrc", "{}/10.mrc"), 5, "10.mrc: expected 8 voxels"),
        (("fsc", "{}/8.mrc", "{}/8.mrc", "--mask", "{}/10.mrc"), 5, "10.mrc: expected 8 voxels a side"),
        (("fsc", "{}/8.mrc", "{}/8.mrc", "--curve", "{}/file/curve.csv"), 1, "file: File exists; check the path"),
        (("fsc", "{}/8.mrc", "{}/8.mrc", "--aligned", "{}/a.mrc"), 2, "expected --align beside it"),
        (("run", "-c", "{}/unwritable.toml"), 1, "choose a session.output_dir that can be written"),
    ],
)
def test_a_mistake_is_a_line_that_says_what_and_where(tmp_path, arguments, code, says):
    (tmp_path / "file").touch()
    for side in (8, 10):
        write_volume(tmp_path / f"{side}.mrc", np.random.default_rng(1).normal(size=(side,) * 3), 2.0)
    (tmp_path / "unwritable.toml").write_text('[session]\noutput_dir = "file/below"\n')
    outcome = invoke(*(str(a).format(tmp_path) for a in arguments))
    assert outcome.exit_code == code, outcome.output
    assert isinstance(outcome.exception, SystemExit)
    assert says in " ".join(outcome.output.split())


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
