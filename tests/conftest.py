"""Fixtures every suite shares."""

import signal

import numpy as np
import pytest

# a shell that starts the suite in the background has SIGINT ignored, and every program a test starts would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    """Options of ours."""
    parser.addoption("--screenshots", metavar="FOLDER", help="write a picture of each state of the page there")


@pytest.fixture
def rng():
    """Random numbers that are the same at every run."""
    return np.random.default_rng(1234)
