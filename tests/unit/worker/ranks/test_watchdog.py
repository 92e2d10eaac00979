"""The watchdog ends the process where it waits for a rank that is gone, and only there."""

import threading

import pytest

from streamrecon.worker.ranks import watchdog as module
from streamrecon.worker.ranks.watchdog import Watchdog


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.005)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.0)


class Ended:
    """Stands for the end of the process."""

    def __init__(self):
        self.happened = threading.Event()
        self.codes = []

    def __call__(self, code):
        self.codes.append(code)
        self.happened.set()


def test_a_wait_for_one_that_is_gone_ends_the_process():
    ended = Ended()
    watchdog = Watchdog(lambda: "rank 2", 1000.0, ended)
    with watchdog:
        assert ended.happened.wait(90)
    assert ended.codes == [1]
    watchdog.close()


def test_a_wait_that_takes_too_long_ends_the_process():
    ended = Ended()
    watchdog = Watchdog(lambda: "", 0.01, ended)
    with watchdog:
        assert ended.happened.wait(90)
    watchdog.close()


def test_nothing_happens_outside_and_while_all_run():
    ended, asked = Ended(), threading.Event()

    def gone():
        asked.set()
        return ""

    watchdog = Watchdog(gone, 1000.0, ended)
    with watchdog:
        assert asked.wait(90)  # it looked, and all was well
    watchdog.close()
    idle = Watchdog(lambda: "rank 1", 0.0, ended)  # whoever is gone, nothing waits for it
    idle.close()
    assert not ended.codes
