"""Fixtures every suite shares."""

import logging
import os
import signal
import sys
import threading

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, settings

# a shell that starts the suite in the background has SIGINT ignored, and every program a test starts would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes says nothing: the machine may be busy. The examples are the same at every run, so that what
# fails is what was changed; STREAMRECON_RANDOM_EXAMPLES=1 looks for others
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="STREAMRECON_RANDOM_EXAMPLES" not in os.environ,
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def the_process_stays_as_it_was(monkeypatch):
    """Give back what a verb called in this process leaves: signal handlers, logging, environment, working folder.

    Whatever is left is found by some later test, or by another one tomorrow: which tests share a process is chance.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    root = logging.getLogger()
    log_handlers, log_level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    environment, folder = dict(os.environ), os.getcwd()  # noqa: PTH109  # given back as it was, not resolved
    # a logger that was used once would keep for ever what a test had configured
    configure = structlog.configure
    monkeypatch.setattr(
        structlog, "configure", lambda **options: configure(**{**options, "cache_logger_on_first_use": False})
    )
    yield
    for number, handler in handlers.items():
        if handler is not None:  # None: set by something that is not Python
            signal.signal(number, handler)
    root.handlers[:] = log_handlers
    root.setLevel(log_level)
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    if os.getcwd() != folder:  # noqa: PTH109  # the same
        os.chdir(folder)
    # pytest's own variable is another in each phase of a test
    changed = {k for k in environment.keys() | os.environ.keys() if environment.get(k) != os.environ.get(k)}
    for name in changed - {"PYTEST_CURRENT_TEST"}:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]


def pytest_addoption(parser):
    """Options of ours."""
    parser.addoption("--screenshots", metavar="FOLDER", help="write a picture of each state of the page there")


@pytest.fixture
def rng():
    """Random numbers that are the same at every run."""
    return np.random.default_rng(1234)
