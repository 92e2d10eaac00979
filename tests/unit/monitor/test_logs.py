import contextlib
import io
import json
import logging
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest
import structlog

from streamrecon.config.model import LogConfig
from streamrecon.monitor.logs import configure_logging, set_log_level, wants_json


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("format_", "stream", "environment", "expected"),
    [
        ("auto", Terminal(), {}, False),
        ("auto", io.StringIO(), {}, True),
        ("auto", Terminal(), {"JOURNAL_STREAM": "8:1"}, True),
        ("auto", Terminal(), {"INVOCATION_ID": "abc"}, True),
        ("console", io.StringIO(), {"INVOCATION_ID": "abc"}, False),
        ("json", Terminal(), {}, True),
    ],
)
def test_format_follows_the_reader(format_, stream, environment, expected):
    assert wants_json(LogConfig(format=format_), stream, environment) is expected


def boom():
    raise ValueError("why")


@pytest.mark.parametrize("where", ["main", "thread"])
def test_what_ends_a_program_or_a_thread_is_a_line_of_the_log(capsys, monkeypatch, where):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has its own
    configure_logging(LogConfig(format="json"), "worker")
    if where == "main":
        try:
            boom()
        except ValueError:
            sys.excepthook(*sys.exc_info())
    else:
        thread = threading.Thread(target=boom)
        thread.start()
        thread.join()
    captured = capsys.readouterr()
    (line,) = (json.loads(text) for text in captured.out.splitlines())
    assert (line["message"], line["level"], line["process"]) == ("crashed", "critical", "worker")
    assert "in boom" in line["exception"]
    assert captured.err == ""


def test_json_lines_of_ours_and_of_libraries(capsys):
    configure_logging(LogConfig(format="json", level="info"), "worker")
    structlog.get_logger("streamrecon.test").info("folded", particles=100)
    structlog.get_logger("streamrecon.test").debug("not shown")
    for logger in (structlog.get_logger("streamrecon.beside"), logging.getLogger("library.beside")):
        thread = threading.Thread(target=logger.warning, args=("in a thread",))
        thread.start()
        thread.join()
    logging.getLogger("some.library").warning("look out: %d", 3)
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger("streamrecon.test").exception("failed")
    captured = capsys.readouterr()
    ours, *beside, theirs, failed = (json.loads(line) for line in captured.out.splitlines())
    assert captured.err == ""
    assert (ours["message"], ours["particles"], ours["level"]) == ("folded", 100, "info")
    assert (theirs["message"], theirs["level"], theirs["logger"]) == ("look out: 3", "warning", "some.library")
    assert "ValueError: why" in failed["exception"]
    assert [line["logger"] for line in beside] == ["streamrecon.beside", "library.beside"]
    for line in (ours, *beside, theirs, failed):
        assert line["process"] == "worker"
        assert datetime.fromisoformat(line["timestamp"]).utcoffset().total_seconds() == 0


def test_a_log_that_cannot_be_written_is_no_trouble_and_makes_none(capsys, monkeypatch):
    """A disk that is full, a reader that has gone, standard output closed by whoever started us."""
    for stream in (Path("/dev/full").open("w"), None):  # noqa: SIM115  # closed below; what it holds fails once more
        monkeypatch.setattr(sys, "stdout", stream)
        configure_logging(LogConfig(format="auto"), "worker")
        structlog.get_logger("ours").warning("it is full")
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    assert capsys.readouterr().err == ""


def test_the_level_may_change_while_it_runs(capsys):
    configure_logging(LogConfig(format="json", level="info"), "worker")
    ours, theirs = structlog.get_logger("ours"), logging.getLogger("theirs")
    for level in ("info", "debug", "error"):
        set_log_level(level)
        for important in ("debug", "warning"):
            getattr(ours, important)(f"{important} at {level}")
            getattr(theirs, important)(f"{important} at {level}")
    said = [(entry["logger"], entry["message"]) for entry in map(json.loads, capsys.readouterr().out.splitlines())]
    expected = ["warning at info", "debug at debug", "warning at debug"]
    assert said == [(logger, text) for text in expected for logger in ("ours", "theirs")]


def test_console_lines_are_for_people(capsys):
    configure_logging(LogConfig(format="console", level="warning"), "run")
    structlog.get_logger("x").warning("something", why="because")
    out = capsys.readouterr().out
    assert "something" in out
    assert "why=because" in out
    assert "{" not in out
