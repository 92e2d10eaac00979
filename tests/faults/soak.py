"""A stream at the highest rate the machine holds: does memory grow, are descriptors lost, does the map fall behind?"""

import json
import re
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

from streamrecon.compare.session import scrape
from tests.e2e.daemon import ended, page_follows, samples, wait_for
from tests.faults.microscope import PacedSession

PARTICLES_A_STACK = 100
# full long before the run has warmed up: what a full store costs is part of what is looked at
STORE_MEGABYTES = 256
# one thread of two processors: what feeds the engine needs the other one. Scans five times as often as by default: a
# session at this rate has a hundred thousand files in one folder
_CONFIG = f"""
[engine]
threads = 1

[refinement]
store_megabytes = {STORE_MEGABYTES}
"""
_POOL_STACKS = 40
_HEADER_BYTES = 1024  # of an MRC file; what the simulator writes is float32
_MOST_WAITING_STACKS = 20
# a process has taken what it needs after so much of the run
_WARM_UP = 0.4
_SAMPLE_SECONDS = 2.0
_LEAST_SAMPLES = 3
_KEEP_SECONDS = 60.0
_IMAGE_NAME = re.compile(r"\b(\d+)@\S*soak_(\d{6})\.mrcs")
# what a process may keep of each stack, so long as the run is long enough for its slope to say anything: ingest knows
# some 1.5 kB of a stack, an export of the poses needs 3 kB a stack for a moment
MOST_BYTES_A_STACK = 8192
_SLOPE_SECONDS = 1200.0
# twenty stacks wait always, so the lag grows only where the rate has collapsed
MOST_LAG_SECONDS = 120.0


@dataclass
class SoakReport:
    """What was sampled over a soak, process by process: series of one value a sample.

    Attributes
    ----------
    at : list of float, seconds
    folded, in_store : list of int
        Particles.
    resident_mib, own_mib : dict of list of float, MiB
        All that is resident, and of it what belongs to no file (`Anonymous` in smaps_rollup): the store of particles
        is a file that is mapped, and what of it is resident comes and goes with the checkpoints.
    processor_seconds : dict of list of float
    descriptors : dict of list of int
    lag_seconds : list of float
    others_share : float
        Of the machine's processor time, what neither the daemon nor this program used.
    restart_seconds : dict of float, seconds
        Started again after all that: until its map is there, until a stack that came meanwhile is in it, and until
        every stack is known again.
    disk_mib : dict of float, MiB
        What lies in the session's folder at the end, by name.
    """

    seconds: float = 0.0
    others_share: float = 0.0
    restart_seconds: dict = field(default_factory=dict)
    disk_mib: dict = field(default_factory=dict)
    particles: int = 0
    stacks: int = 0
    at: list = field(default_factory=list)
    folded: list = field(default_factory=list)
    in_store: list = field(default_factory=list)
    resident_mib: dict = field(default_factory=dict)
    own_mib: dict = field(default_factory=dict)
    processor_seconds: dict = field(default_factory=dict)
    descriptors: dict = field(default_factory=dict)
    lag_seconds: list = field(default_factory=list)

    def slope_mib_an_hour(self, name):
        """Return the slope of a process's own memory after warming up, and its standard error, MiB an hour."""
        at, memory = self.warm(self.at), self.warm(self.own_mib[name])
        (slope, _), covariance = np.polyfit(at / 3600, memory, 1, cov=True)
        return float(slope), float(np.sqrt(covariance[0, 0]))

    def bytes_a_stack(self, name):
        """Return how much a process's own memory grew for each stack that was folded after warming up."""
        stacks, memory = self.warm(self.folded) / PARTICLES_A_STACK, self.warm(self.own_mib[name])
        return float(np.polyfit(stacks, memory * 2**20, 1)[0])

    def check(self):
        """Assert that descriptors are not lost, that memory grows by no more than it must, and the lag is bounded.

        The lag in the end is asked for: what a machine did that stood still for a minute says nothing of us.
        """
        for name, counts in self.descriptors.items():
            warm = self.warm(counts)
            assert max(warm) - min(warm) <= 8, f"{name}: {counts}"
        tail = self.lag_seconds[-max(1, len(self.lag_seconds) // 10) :]
        assert np.median(tail) <= MOST_LAG_SECONDS, f"the map fell behind: {tail}"
        if self.seconds >= _SLOPE_SECONDS:
            for name in self.own_mib:
                assert self.bytes_a_stack(name) <= MOST_BYTES_A_STACK, f"{name} grows: {self.own_mib[name]}"

    def warm(self, values):
        """Return what of a series comes after warming up."""
        return np.array(values[int(_WARM_UP * len(values)) :], np.float64)

    def keep(self, path):
        """Write the series as JSON."""
        Path(path).write_text(json.dumps(asdict(self)), encoding="utf-8")


def run_soak(folder, *, seconds, seed=1, say=lambda _: None, series=None):
    """Keep a daemon as busy as it can be for so long; return a `SoakReport`.

    A new stack comes whenever fewer than twenty wait, with images of its own: one of a pool, scaled. ``series``
    names a file that the figures so far are written to every minute.

    Raises
    ------
    AssertionError
        A process ended or was started again, particles are missing, or what `SoakReport.check` asks for.
    """
    report = SoakReport()
    session = PacedSession(
        folder,
        _POOL_STACKS * PARTICLES_A_STACK,
        seed=seed,
        more=_CONFIG,
        hurried=False,
        per_micrograph=PARTICLES_A_STACK,
    )
    supply = Supply(session)
    with session.run() as daemon:
        supply.keep_ahead_of(0)
        # start-up is over once the first batch is folded, and the page is there
        wait_for(lambda: scrape(session.ports.monitor).get("streamrecon_worker_particles_seen"), daemon)
        wait_for(lambda: page_follows(session), daemon)
        children = _processes(daemon)
        others = _Others(children)
        began = time.monotonic()
        next_sample, next_keep = began, began + _KEEP_SECONDS
        # a machine that stood still for so long leaves no sample
        while (now := time.monotonic()) < began + seconds or len(report.at) < _LEAST_SAMPLES:
            assert daemon.poll() is None, session.logged()[-3000:]
            figures = scrape(session.ports.monitor)
            folded = int(figures.get("streamrecon_worker_particles_seen", 0))
            supply.keep_ahead_of(folded)
            if now >= next_sample and figures:
                next_sample = now + _SAMPLE_SECONDS
                _sample(report, children, now - began, figures, folded)
            if now >= next_keep:
                next_keep = now + _KEEP_SECONDS
                say(_line(report))
                if series is not None:
                    report.keep(series)
            time.sleep(0.1)
        report.seconds = time.monotonic() - began
        report.others_share = others.share()
        assert {p.pid for p in _processes(daemon).values()} == {p.pid for p in children.values()}, (
            "one was started again"
        )
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon, 300) == 0, session.logged()[-3000:]
    supply.write_next()
    report.stacks = supply.stacks
    report.restart_seconds = _restart(session, report.stacks)
    report.particles = count_exported(session.output / "particles.star", report.stacks)
    report.disk_mib = {
        entry.name: sum(f.stat().st_size for f in (entry, *entry.rglob("*")) if f.is_file()) / 2**20
        for entry in session.output.iterdir()
    }
    if series is not None:
        report.keep(series)
    report.check()
    return report


def _restart(session, stacks):
    """Start it again with so many stacks there; return after how many seconds it was how far."""
    seen, files = ("streamrecon_worker_particles_seen",), "streamrecon_ingest_files"
    goals = {
        "map": (seen, 1),
        "new": (seen, stacks * PARTICLES_A_STACK),
        "known": ((files, ("state", "ready"), ("type", "stack")), stacks),
    }
    reached = {}
    began = time.monotonic()

    def all_reached():
        found = samples(session.metrics())
        for what, (name, least) in goals.items():
            if found.get(name, 0) >= least:
                reached.setdefault(what, time.monotonic() - began)
        return reached.keys() == goals.keys()

    with session.run() as daemon:
        wait_for(all_reached, daemon, 1800)
        daemon.send_signal(signal.SIGTERM)
        assert ended(daemon, 600) == 0, session.logged()[-3000:]
    return reached


def count_exported(path, stacks):
    """Assert that the export has each particle of so many stacks once; return how many there are.

    Read line by line: after two hours it is longer than any STAR file that a session takes as input.
    """
    found = np.zeros((stacks, PARTICLES_A_STACK), np.uint8)
    with path.open(encoding="ascii") as file:
        for line in file:
            if name := _IMAGE_NAME.search(line):
                found[int(name[2]), int(name[1]) - 1] += 1
    assert found.min() == 1, f"{np.count_nonzero(found == 0)} of {found.size} are not in the map"
    assert found.max() == 1, f"{np.count_nonzero(found > 1)} of {found.size} are in the map more than once"
    return found.size


class Supply:
    """Stacks without end, each with its STAR: those of a pool, scaled, as images that are known would not count."""

    def __init__(self, session):
        stacks = sorted(session.stage.rglob("*.mrcs"))
        self._pool = [(stack, stack.with_name(f"{stack.stem}_extract.star").read_text()) for stack in stacks]
        self._target = session.incoming / stacks[0].relative_to(session.stage).parent
        self._target.mkdir(parents=True)
        self.stacks = 0

    def keep_ahead_of(self, folded):
        """Let stacks come until twenty wait."""
        while self.stacks * PARTICLES_A_STACK < folded + _MOST_WAITING_STACKS * PARTICLES_A_STACK:
            self.write_next()

    def write_next(self):
        """Let the next stack come."""
        stack, star = self._pool[self.stacks % len(self._pool)]
        name = f"soak_{self.stacks:06d}"
        content = stack.read_bytes()
        header, pixels = content[:_HEADER_BYTES], np.frombuffer(content, "<f4", offset=_HEADER_BYTES)
        part = self._target / f".{name}.part"
        part.write_bytes(header + (pixels * np.float32(1 + 1e-6 * self.stacks)).tobytes())
        part.rename(self._target / f"{name}.mrcs")
        part = self._target / f".{name}.part"
        part.write_text(re.sub(rf"{stack.stem}(?=\.mrcs)", name, star), encoding="utf-8")
        part.rename(self._target / f"{name}.star")
        self.stacks += 1


class _Others:
    """What other programs use of the machine's processors from now on."""

    def __init__(self, children):
        self._ours = [*children.values(), psutil.Process()]
        self._began, self._before = time.monotonic(), self._used()

    def share(self):
        used = self._used() - self._before  # first: never of a longer time than it is a share of
        return max(0.0, used / ((time.monotonic() - self._began) * psutil.cpu_count()))

    def _used(self):
        machine = psutil.cpu_times()
        busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq + machine.steal
        return busy - sum(sum(process.cpu_times()[:2]) for process in self._ours)


def _processes(daemon):
    parent = psutil.Process(daemon.pid)
    found = {"supervisor": parent}
    for process in parent.children():
        verb = next((v for v in ("ingest", "worker", "page") if v in process.cmdline()), None)
        if verb is not None:
            found[verb] = process
    return found


def _sample(report, processes, at, figures, folded):
    report.at.append(round(at, 1))
    report.folded.append(folded)
    report.in_store.append(int(figures.get("streamrecon_worker_store_particles", 0)))
    report.lag_seconds.append(figures.get("streamrecon_ingest_lag_seconds", 0.0))
    for name, process in processes.items():
        rollup = _smaps_rollup(process.pid)
        report.resident_mib.setdefault(name, []).append(rollup["Rss"] / 1024)
        report.own_mib.setdefault(name, []).append(rollup["Anonymous"] / 1024)
        report.processor_seconds.setdefault(name, []).append(sum(process.cpu_times()[:2]))
        report.descriptors.setdefault(name, []).append(process.num_fds())


def _smaps_rollup(pid):
    """Return the kernel's sums over a process's mappings, kB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return {name: int(kilobytes) for name, kilobytes in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def _line(report):
    own = ", ".join(f"{name} {values[-1]:.1f}" for name, values in report.own_mib.items())
    return (
        f"{report.at[-1]:.0f} s, {report.folded[-1]} particles ({report.in_store[-1]} in the store), "
        f"lag {report.lag_seconds[-1]:.1f} s, own MiB: {own}"
    )
