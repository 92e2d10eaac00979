"""Feeding a target with inputs, under a bound of time and of memory for each, and telling what came of it."""

import faulthandler
import resource
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.fuzz.mutate import Mutator
from tests.faults.fuzz.targets import TARGETS

MOST_SECONDS = 2.0  # of the processor: others use it too
MOST_MEMORY_BYTES = 512 * 2**20
_HANGS_SECONDS = 900.0
# a virtual machine may stand still for minutes: that is no time in which anything was tried
_STANDSTILL_SECONDS = 10.0


@dataclass
class FuzzReport:
    """What a target did with its inputs."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    accepted: int = 0
    refused: Counter = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    memory_growth_bytes: int = 0


class Found(AssertionError):
    """An input on which a promise was broken."""


def fuzz(name, target, *, seed, inputs, seconds):
    """Try inputs until there were so many or the time by the clock is over; return a `FuzzReport`.

    Raises
    ------
    Found
        Another exception than the target's own, more than two seconds of the processor, or half a
        gigabyte, for one input.
    """
    mutator = Mutator(target.corpus, seed)
    report = FuzzReport(name)
    for data in target.corpus:
        _try(target, data, report)
    report.inputs = report.accepted = 0
    report.slowest_seconds = 0.0
    report.refused.clear()
    before = _peak_bytes()
    before_processor = time.process_time()
    looked = time.monotonic()
    try:
        while report.inputs < inputs and report.seconds < seconds:
            if report.inputs % 1000 == 0:
                # a hang inside a C library hears no signal of Python's
                faulthandler.dump_traceback_later(_HANGS_SECONDS, exit=True)
            _try(target, mutator.next(), report)
            now = time.monotonic()
            report.seconds += now - looked if now - looked < _STANDSTILL_SECONDS else 0.0
            looked = now
            peak = _peak_bytes()
            if peak - before > MOST_MEMORY_BYTES:
                raise Found(f"{name}: {peak - before} bytes more after input {report.inputs} of seed {seed}")
    finally:
        # left set it would end whatever this process does next, a minute later and without a word
        faulthandler.cancel_dump_traceback_later()
    report.memory_growth_bytes = _peak_bytes() - before
    report.processor_seconds = time.process_time() - before_processor
    return report


def fuzz_by_name(name, seed, inputs, seconds):
    """Fuzz one target; return its report."""
    # infinity where there should be a number is an answer that a reader must not give
    warnings.simplefilter("error", RuntimeWarning)
    target = TARGETS[name]()
    try:
        return fuzz(name, target, seed=seed, inputs=inputs, seconds=seconds)
    finally:
        target.close()


def _try(target, data, report):
    began = time.process_time()
    try:
        target(data)
    except target.refuses as error:
        report.refused[error.kind] += 1
    except Exception as error:
        shown = data if len(data) < 3000 else data[:3000] + b"..."
        raise Found(f"{report.target}: {type(error).__name__}: {error} on {shown!r}") from error
    else:
        report.accepted += 1
    taken = time.process_time() - began
    report.inputs += 1
    report.slowest_seconds = max(report.slowest_seconds, taken)
    if taken > MOST_SECONDS:
        raise Found(f"{report.target}: {taken:.1f} s on {data[:3000]!r}")


def _peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
