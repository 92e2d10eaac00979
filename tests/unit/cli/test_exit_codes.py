import pytest
import typer

from streamrecon import errors
from streamrecon.cli import exit_codes


def all_errors():
    todo, found = [errors.StreamReconError], []
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_a_code_that_is_documented(kind):
    code = exit_codes.exit_code_of(kind("x"))
    assert code != exit_codes.OK
    assert f"\n{code} " in exit_codes.__doc__


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 2),
        (errors.CheckpointIncompatible, 3),
        (errors.CheckpointCorrupt, 3),
        (errors.LedgerCorrupt, 3),
        (errors.NetworkFilesystem, 2),
        (errors.StateError, 1),
        (errors.StateUnwritable, 1),
        (errors.SequenceGap, 4),
        (errors.StackCorrupt, 5),
        (errors.DeviceError, 6),
        (errors.RankLost, 1),  # started again, and then from the checkpoint
        (errors.NumericalError, 7),
    ],
)
def test_codes_and_the_message_on_standard_error(error, code, capsys):
    with pytest.raises(typer.Exit) as caught, exit_codes.errors_as_exit_codes():
        raise error("what, and the remedy")
    assert caught.value.exit_code == code
    assert "what, and the remedy" in "".join(capsys.readouterr())


def test_what_a_restart_cannot_mend_is_permanent_and_the_rest_is_not():
    codes = {kind: exit_codes.exit_code_of(kind("x")) for kind in all_errors()}
    permanent = {kind for kind, code in codes.items() if code in exit_codes.PERMANENT}
    assert permanent == {
        errors.ConfigError,
        errors.NetworkFilesystem,
        errors.LedgerCorrupt,
        errors.CheckpointCorrupt,
        errors.CheckpointIncompatible,
        errors.DeviceError,
    }


def test_other_exceptions_pass():
    with pytest.raises(KeyError), exit_codes.errors_as_exit_codes():
        raise KeyError("x")
