"""A short run of every fuzzer, and that the fuzzer itself finds what is wrong."""

import pytest

from streamrecon.errors import IngestError
from tests.faults.fuzz import run
from tests.faults.fuzz.mutate import Mutator
from tests.faults.fuzz.run import Found, fuzz, fuzz_by_name
from tests.faults.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_errors_of_ours(name):
    report = fuzz_by_name(name, seed=3, inputs=1500, seconds=400.0)
    assert report.inputs == 1500
    assert report.accepted > 0
    assert sum(report.refused.values()) > 500


class Fragile:
    """A reader that promises IngestError and breaks on one byte."""

    refuses = IngestError
    corpus = (b"quite harmless text",)

    def __init__(self, breaks):
        self._breaks = breaks

    def __call__(self, data):
        if b"z" in data:
            self._breaks()


def test_another_exception_is_found():
    def breaks():
        raise KeyError("z")

    with pytest.raises(Found, match="KeyError"):
        fuzz("fragile", Fragile(breaks), seed=1, inputs=100_000, seconds=200.0)


def test_what_was_found_leaves_no_clock_running(monkeypatch):
    """The clock ends the process it runs in: left set, it would be this one, a minute later."""
    calls = []
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *args, **kwargs: calls.append("set"))
    monkeypatch.setattr("faulthandler.cancel_dump_traceback_later", lambda: calls.append("cancelled"))

    def breaks():
        raise KeyError("z")

    with pytest.raises(Found):
        fuzz("fragile", Fragile(breaks), seed=1, inputs=100_000, seconds=200.0)
    assert "set" in calls
    assert calls[-1] == "cancelled"


def test_memory_beyond_the_bound_is_found(monkeypatch):
    monkeypatch.setattr(run, "MOST_MEMORY_BYTES", 64 * 2**20)
    kept = []  # one may fit below the most that this process ever had, all do not
    with pytest.raises(Found, match="bytes more"):
        fuzz("greedy", Fragile(lambda: kept.append(b"x" * (96 * 2**20))), seed=1, inputs=100_000, seconds=200.0)


def test_the_same_seed_gives_the_same_inputs():
    one, two, other = (Mutator([b"some words 1.5 here"] * 2, seed) for seed in (1, 1, 2))
    first = [one.next() for _ in range(50)]
    assert first == [two.next() for _ in range(50)]
    assert first != [other.next() for _ in range(50)]
    assert len(set(first)) > 40
