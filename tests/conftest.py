"""Fixtures every suite shares."""

import signal

import numpy as np
import pytest

# a shell that starts the suite in the background has SIGINT ignored, and every program a test starts would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def handlers_stay_as_they_were():
    """Give back the signal handlers that a verb called in this process leaves."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if handler is not None:  # None: set by something that is not Python
            signal.signal(number, handler)


def pytest_addoption(parser):
    """Options of ours."""
    parser.addoption("--screenshots", metavar="FOLDER", help="write a picture of each state of the page there")


@pytest.fixture
def rng():
    """Random numbers that are the same at every run."""
    return np.random.default_rng(1234)
