"""A stream at the highest rate the machine holds: does memory grow, are descriptors lost, does the map fall behind?"""

import os
import re
import signal
import time
from dataclasses import dataclass, field

import numpy as np
import psutil

from streamrecon.compare.session import scrape
from tests.e2e.daemon import wait_for
from tests.faults.microscope import PER_MICROGRAPH, PacedSession

_POOL_MICROGRAPHS = 40
_MOST_WAITING_MICROGRAPHS = 20
# a process has taken what it needs after so much of the run
_WARM_UP = 0.4
_SAMPLE_SECONDS = 2.0


@dataclass
class SoakReport:
    """What was sampled over a soak, process by process."""

    seconds: float = 0.0
    particles: int = 0
    stacks: int = 0
    at: list = field(default_factory=list)
    memory_mib: dict = field(default_factory=dict)
    descriptors: dict = field(default_factory=dict)
    lag_seconds: list = field(default_factory=list)
    folded: list = field(default_factory=list)

    def slope_mib_an_hour(self, name):
        """Return the slope of a process's memory after warming up, and its standard error, MiB an hour."""
        at, memory = self._warm(self.memory_mib[name])
        (slope, _), covariance = np.polyfit(at / 3600, memory, 1, cov=True)
        return float(slope), float(np.sqrt(covariance[0, 0]))

    def bytes_a_stack(self, name):
        """Return how much a process's memory grew for each stack that came after warming up."""
        _, memory = self._warm(self.memory_mib[name])
        _, folded = self._warm(self.folded)
        return float((memory[-1] - memory[0]) * 2**20 / max(1.0, (folded[-1] - folded[0]) / PER_MICROGRAPH))

    def _warm(self, values):
        start = int(_WARM_UP * len(self.at))
        return np.array(self.at[start:]), np.array(values[start:], np.float64)


def run_soak(folder, *, seconds, seed=1, say=lambda _: None):
    """Keep a daemon as busy as it can be for so long; return a `SoakReport`.

    A new micrograph comes whenever fewer than twenty wait, under a name of its own: a hard link to one of a pool.

    Raises
    ------
    AssertionError
        A process ended or was started again, descriptors were lost, or the map fell behind.
    """
    report = SoakReport()
    session = PacedSession(folder, _POOL_MICROGRAPHS * PER_MICROGRAPH, seed=seed)
    pool = [
        (stack, stack.with_name(f"{stack.stem}_extract.star").read_text()) for stack in session.stage.rglob("*.mrcs")
    ]
    target = session.incoming / pool[0][0].relative_to(session.stage).parent
    target.mkdir(parents=True)
    with session.run() as daemon:
        while report.stacks < _MOST_WAITING_MICROGRAPHS:
            _link(pool[report.stacks % len(pool)], target, report.stacks)
            report.stacks += 1
        # start-up is over once the first batch is folded
        wait_for(lambda: scrape(session.ports.monitor).get("streamrecon_worker_particles_seen"), daemon)
        children = _processes(daemon)
        began = time.monotonic()
        next_sample = began
        while (now := time.monotonic()) < began + seconds:
            assert daemon.poll() is None, session.logged()[-3000:]
            figures = scrape(session.ports.monitor)
            folded = int(figures.get("streamrecon_worker_particles_seen", 0))
            while report.stacks * PER_MICROGRAPH < folded + _MOST_WAITING_MICROGRAPHS * PER_MICROGRAPH:
                _link(pool[report.stacks % len(pool)], target, report.stacks)
                report.stacks += 1
            if now >= next_sample and figures:
                next_sample = now + _SAMPLE_SECONDS
                _sample(report, children, now - began, figures, folded)
                say(f"{now - began:.0f} s, {folded} particles, lag {report.lag_seconds[-1]:.1f} s")
            time.sleep(0.1)
        report.seconds = time.monotonic() - began
        assert {p.pid for p in _processes(daemon).values()} == {p.pid for p in children.values()}, (
            "one was started again"
        )
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=120) == 0, session.logged()[-3000:]
    session.finish(300)
    # visits in quiet moments add rows to the pose table: the export has each particle once
    exported = len(session.poses())
    assert exported == report.stacks * PER_MICROGRAPH, f"{exported} of {report.stacks * PER_MICROGRAPH} are in the map"
    report.particles = exported
    for name, counts in report.descriptors.items():
        warm = counts[int(_WARM_UP * len(counts)) :]
        assert max(warm) - min(warm) <= 8, f"{name}: {counts}"
    return report


def _processes(daemon):
    parent = psutil.Process(daemon.pid)
    found = {"supervisor": parent}
    for process in parent.children():
        verb = next((v for v in ("ingest", "worker", "page") if v in process.cmdline()), None)
        if verb is not None:
            found[verb] = process
    return found


def _sample(report, processes, at, figures, folded):
    report.at.append(at)
    report.folded.append(folded)
    report.lag_seconds.append(figures.get("streamrecon_ingest_lag_seconds", 0.0))
    for name, process in processes.items():
        report.memory_mib.setdefault(name, []).append(process.memory_info().rss / 2**20)
        report.descriptors.setdefault(name, []).append(process.num_fds())


def _link(micrograph, target, number):
    stack, star = micrograph
    name = f"soak_{number:06d}"
    os.link(stack, target / f"{name}.mrcs")
    part = target / f".{name}.part"
    part.write_text(re.sub(rf"{stack.stem}(?=\.mrcs)", name, star), encoding="utf-8")
    part.rename(target / f"{name}.star")
