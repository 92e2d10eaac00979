"""A session's folder that cannot be written to: said at once by every verb that would begin there."""

import errno
import os
import tempfile
import threading

import psutil
import pytest
from typer.testing import CliRunner

from streamrecon.cli import exit_codes, ingest, run, worker
from streamrecon.cli.main import app
from streamrecon.cli.writable import check_writable
from streamrecon.errors import StateUnwritable
from streamrecon.ingest import filesystem


def refuse(*_args, **_options):
    raise AssertionError("it began")


@pytest.fixture
def never_begins(monkeypatch):
    """Make all three say so if they get past the check, and leave pytest's signals and logging alone."""
    for verb in (ingest, worker):
        monkeypatch.setattr(verb, "stop_on_signals", threading.Event)
    for verb in (ingest, run, worker):
        monkeypatch.setattr(verb, "configure_logging", lambda *_: None)
    monkeypatch.setattr(run, "Supervisor", refuse)
    monkeypatch.setattr(ingest, "Ingest", refuse)
    monkeypatch.setattr(worker, "run_worker", refuse)


@pytest.mark.parametrize("verb", ["run", "ingest", "worker"])
def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path, never_begins, verb):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "session"
    config = tmp_path / "config.toml"
    config.write_text(f'[session]\noutput_dir = "{output}"\n[watch]\nroot = "{tmp_path}"\n', encoding="utf-8")
    outcome = CliRunner().invoke(app, [verb, "-c", str(config)])
    assert outcome.exit_code == exit_codes.UNEXPECTED
    assert isinstance(outcome.exception, SystemExit)
    assert f"{output}: cannot be written to (Not a directory); choose a session.output_dir" in outcome.output


@pytest.mark.parametrize("verb", ["run", "ingest", "worker"])
@pytest.mark.parametrize("fstype", ["nfs4", "autofs", "fuse.juicefs", "ocfs2"])
def test_a_network_file_system_is_refused_for_good(tmp_path, never_begins, monkeypatch, verb, fstype):
    """By the table of mounts: whoever starts the verb again would meet the same."""
    output = tmp_path / "scratch" / "session"

    def mounts(all):
        return [psutil._ntuples.sdiskpart("dev", *m, "") for m in (("/", "ext4"), (str(tmp_path / "scratch"), fstype))]

    monkeypatch.setattr(filesystem.psutil, "disk_partitions", mounts)
    config = tmp_path / "config.toml"
    config.write_text(f'[session]\noutput_dir = "{output}"\n[watch]\nroot = "{tmp_path}"\n', encoding="utf-8")
    outcome = CliRunner().invoke(app, [verb, "-c", str(config)])
    assert outcome.exit_code == exit_codes.CONFIG
    assert outcome.exit_code in exit_codes.PERMANENT
    assert f"{output}: expected a local file system, found {fstype}" in outcome.output
    assert "session.output_dir" in outcome.output


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_full_disk_is_waited_for_and_no_reason_to_give_up(tmp_path, monkeypatch, number):
    def failing(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", failing)
    if number in (errno.ENOSPC, errno.EDQUOT):
        check_writable(tmp_path / "new")
        assert (tmp_path / "new").is_dir()
    else:
        with pytest.raises(StateUnwritable, match=os.strerror(number)):
            check_writable(tmp_path / "new")


def test_nothing_is_left_where_it_was_tried(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
