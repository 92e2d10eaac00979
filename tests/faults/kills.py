"""kill -9 of ingester, worker and supervisor at random moments of one session, and what is left of it.

The session is then run again without a fault, on a copy of its ledger with every batch unfolded: the same batches
in the same order, so that the two maps have to agree bit for bit. That is asked of a session without visits in quiet
moments, since when it is quiet depends on the kills; in a session with visits each particle must be in the map once
and each visit in the pose table, and the maps must agree shell by shell as well as other draws of the same poses do.
"""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields

import mrcfile
import numpy as np
import psutil

from streamrecon.assess.align import align_volumes
from streamrecon.io import read_volume
from tests.e2e.daemon import ENVIRONMENT, Patience, Session
from tests.faults.exactly_once import assert_exactly_once, folded, pose_rows
from tests.faults.microscope import EARLY_VISITS, NO_VISITS, PER_MICROGRAPH, PIXEL_SIZE, PIXELS, PacedSession

VICTIMS = ("ingest", "worker", "supervisor", "all three")
_READY_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 3.0
MAPS = ("volume", "half_a", "half_b")
# so clear that few particles decide where all lie, whenever they are visited
_CLEAR_SNR = 1.0
_ENOUGH_TO_VISIT = 20  # micrographs
_ALIGNED_SHELLS = PIXELS // 2 - 3  # beyond them a map that was turned has nothing
# so many that both maps are at rest, however often their particles were visited before: three are not enough
_FINAL_SWEEPS = 12
# poses are drawn anew at each visit: where noise weighs as much as the map, maps of other visits are other draws of it
LEAST_FSC_OF_VISITED = 0.9
LEAST_FSC_BELOW_HALF = 0.97  # up to half the resolution's frequency
MOST_LOST_OF_TRUTH = 0.03


@dataclass
class KillReport:
    """What was done to a session and what came of it."""

    kills: Counter = field(default_factory=Counter)
    moments: Counter = field(default_factory=Counter)
    supervisor_restarts: int = 0
    gave_up: int = 0
    resumed: int = 0
    requeued: int = 0
    told_at_hello: int = 0
    particles: int = 0
    batches: int = 0
    visits: int = 0
    bitwise: dict = field(default_factory=dict)
    lowest_fsc_to_truth: list = field(default_factory=list)
    lowest_fsc: dict = field(default_factory=dict)
    resolution_angstrom: list = field(default_factory=list)
    image_visits: list = field(default_factory=list)
    minutes: float = 0.0


class Init:
    """Keeps ``streamrecon run`` alive, as systemd would."""

    def __init__(self, session):
        self._session = session
        self._log = session.log.open("ab")
        self.restarts = self.gave_up = 0
        self.process = self._start()

    def _start(self):
        return subprocess.Popen(
            [sys.executable, "-m", "streamrecon", "run", "-c", str(self._session.config)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )

    def look(self):
        """Start it again if it is gone; return its process."""
        code = self.process.poll()
        if code is not None:
            assert code in (1, -signal.SIGKILL), f"it ended with {code}: {self._session.logged()[-3000:]}"
            self.gave_up += code == 1
            self.restarts += 1
            self.process = self._start()
        return self.process

    def children(self):
        """Return the live processes of ingest and worker by name."""
        found = {}
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess):
                    verb = next((v for v in ("ingest", "worker") if v in process.cmdline()), None)
                    if verb is not None:
                        found[verb] = process
        return found

    def close(self):
        """Kill what is left of it."""
        for process in (*self.children().values(), self.process):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        self._log.close()


def run_kills(folder, kills, *, seed=1, micrographs_a_kill=1, visits=False, minutes=None, say=lambda _: None):
    """Kill, hold what is left against what was written, run it again without a fault; return a `KillReport`.

    With ``visits`` kept particles are visited again in quiet moments, and at the end. After ``minutes`` nothing
    more is killed.

    Raises
    ------
    AssertionError
        A particle was lost or counted twice, or the maps differ.
    """
    began = time.monotonic()
    choose = random.Random(seed)
    report = KillReport()
    first = _ENOUGH_TO_VISIT if visits else 0
    particles = PER_MICROGRAPH * max(20, first + kills * micrographs_a_kill)
    session = PacedSession(
        folder / "killed",
        particles,
        seed=seed,
        more=EARLY_VISITS.replace("final_sweeps = 3", f"final_sweeps = {_FINAL_SWEEPS}") if visits else NO_VISITS,
        **({"snr": _CLEAR_SNR} if visits else {}),
    )
    init = Init(session)
    try:
        session.deliver(first)
        for number in range(kills):
            if minutes is not None and time.monotonic() > began + 60 * minutes:
                break
            session.deliver(micrographs_a_kill)
            _kill(init, session, choose, report, visits=visits)
            say(f"kill {number + 1} of {kills}: {dict(report.kills)}")
        session.deliver_all()
        _stop(init, session)
    finally:
        init.close()
    report.supervisor_restarts, report.gave_up = init.restarts, init.gave_up
    session.finish(900)
    _read_log(session, report)
    report.particles, report.batches = assert_exactly_once(session)
    report.visits = len(pose_rows(session))
    reference = uninterrupted(session, folder / "reference")
    if visits:
        _compare_visited(session, reference, report)
    else:
        _compare(session, reference, report)
    report.minutes = (time.monotonic() - began) / 60
    return report


def _kill(init, session, choose, report, *, visits):
    """Kill one of the processes, at a random moment of its life; with ``visits`` once there were some."""
    victim = choose.choice(VICTIMS)
    when = choose.random()
    if visits:
        _wait_for_visits(init, session, report)
    elif when < 0.6:
        # in the midst of work: while batches are folded and checkpoints written
        _wait_for_work(init, session)
    deadline = time.monotonic() + choose.uniform(0.0, _LONGEST_WAIT_SECONDS if choose.random() < 0.5 else 0.5)
    while time.monotonic() < deadline:
        init.look()
        time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
    names = {"ingest": ["ingest"], "worker": ["worker"], "supervisor": [], "all three": ["ingest", "worker"]}[victim]
    patience = Patience(_READY_SECONDS)
    while not set(names) <= init.children().keys():
        init.look()
        assert patience.lasts(), session.logged()[-3000:]
        time.sleep(0.02)
    doomed = [init.children().get(name) for name in names]
    if when < 0.2:
        _wait_for_checkpoint(session)
    writing = any((session.output / "checkpoints").glob(".writing-*"))
    if victim in ("supervisor", "all three"):
        init.process.kill()
    for process in doomed:
        with suppress(psutil.NoSuchProcess, AttributeError):
            process.kill()
    if victim in ("supervisor", "all three"):
        init.process.wait()
    report.kills[victim] += 1
    report.moments["while a checkpoint was being written"] += writing


def _wait_for_work(init, session):
    """Wait until the pose table grows, which it does with every batch that is folded, or nothing is left to fold.

    A worker that starts on a busy machine takes its time; one that is killed before it has begun shows nothing.
    """
    spool = session.output / "poses.rows"
    size = spool.stat().st_size if spool.exists() else 0
    patience = Patience(_READY_SECONDS)
    while patience.lasts():
        init.look()
        if spool.exists() and spool.stat().st_size > size:
            return
        if folded(session) == session.particles_delivered:
            return
        time.sleep(0.02)


def _wait_for_visits(init, session, report):
    """Wait until the table of visits changes, or long enough that nobody's turn is left."""
    table = session.output / "poses.visits"
    patience = Patience(_READY_SECONDS)
    size = table.stat().st_size if table.exists() else 0
    while patience.lasts():
        init.look()
        if table.exists() and table.stat().st_size != size:
            report.moments["while particles were visited"] += 1
            return
        time.sleep(0.02)


def _wait_for_checkpoint(session):
    """Wait until files of a checkpoint are being written: that takes milliseconds, and chance seldom meets it."""
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        if any((session.output / "checkpoints").glob(".writing-*")):
            return
        time.sleep(0.0005)


def _stop(init, session):
    """Stop it in order; what has died just now is started again first."""
    while init.look().poll() is None:
        if init.children().keys() == {"ingest", "worker"}:
            init.process.terminate()
            break
        time.sleep(0.1)
    patience = Patience(120)
    while init.process.poll() is None:
        assert patience.lasts(), session.logged()[-3000:]
        time.sleep(0.05)
    assert init.process.returncode in (0, 1), session.logged()[-3000:]


def _read_log(session, report):
    """Count in the log what the faults led to."""
    for line in session.logged().splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            message = entry.get("message")
            report.resumed += message == "resumed"
            if message == "worker_came":
                report.requeued += entry["requeued"]
                report.told_at_hello += entry["newly_folded"]


def uninterrupted(session, folder):
    """Fold the batches of a session once more, in their order, without a fault; return the new session."""
    again = Session(folder)
    text = session.config.read_text().replace('"incoming"', f'"{session.incoming}"')
    for name in (port.name for port in fields(again.ports)):
        text = text.replace(getattr(session.ports, name), getattr(again.ports, name))
    again.config.write_text(text)
    again.output.mkdir()
    with closing(sqlite3.connect(session.output / "ledger.sqlite")) as ledger:
        ledger.execute("VACUUM INTO ?", (str(again.output / "ledger.sqlite"),))
    with closing(sqlite3.connect(again.output / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE batches SET state = 'queued', worker = '', leased_at = NULL, folded_at = NULL")
    again.finish(900)
    return again


def _compare(session, reference, report):
    for name in MAPS:
        one, two = (_read(s, name) for s in (session, reference))
        report.bitwise[name] = bool(np.array_equal(one, two))
        fsc = shell_correlation(one, two)
        report.lowest_fsc[name] = float(fsc.min())
        assert report.lowest_fsc[name] > 0.999, f"{name}: {fsc}"
    poses = [(s.output / "poses.rows").read_bytes() for s in (session, reference)]
    report.bitwise["poses"] = poses[0] == poses[1]


def _compare_visited(session, reference, report):
    """Compare maps that differ in when and how often particles were visited: by shells, up to the resolution.

    Nothing holds the frame: unless they are closer as they are, the one map is turned onto the other first.
    """
    both = (session, reference)
    maps = [_read(s, "volume") for s in both]
    report.resolution_angstrom = [_status(s)["resolution_angstrom"] for s in both]
    report.image_visits = [_status(s)["image_visits"] for s in both]
    report.bitwise["volume"] = bool(np.array_equal(*maps))
    last = min(int(PIXELS * PIXEL_SIZE / max(report.resolution_angstrom) + 1e-6), _ALIGNED_SHELLS)
    fsc = _aligned_fsc(*maps, last)
    report.lowest_fsc = {"volume": float(fsc.min()), "below half": float(fsc[: last // 2].min())}
    truth, _ = read_volume(session.folder / "truth" / "truth.mrc")
    of_truth = [_aligned_fsc(truth, found, last) for found in maps]
    report.lowest_fsc_to_truth = [float(found.min()) for found in of_truth]
    assert report.lowest_fsc["volume"] > LEAST_FSC_OF_VISITED, fsc
    assert report.lowest_fsc["below half"] > LEAST_FSC_BELOW_HALF, fsc
    assert (of_truth[0] > of_truth[1] - MOST_LOST_OF_TRUTH).all(), of_truth


def _aligned_fsc(one, two, last):
    """Return the FSC from the first shell to ``last``, turned onto each other or not, whichever is better."""
    ways = (two, align_volumes(one, two, PIXEL_SIZE).volume)  # turning a map that need not be turned costs it some
    return max((shell_correlation(one, way)[1 : last + 1] for way in ways), key=np.min)


def _status(session):
    return json.loads((session.output / "snapshots" / "status.json").read_text())


def _read(session, name):
    with mrcfile.open(session.output / "snapshots" / f"{name}.mrc") as file:
        return np.array(file.data)


def shell_correlation(one, two):
    """Return the FSC of two maps at every shell that holds power, in double precision."""
    transforms = [np.fft.fftn(np.asarray(m, np.float64)) for m in (one, two)]
    frequency = np.fft.fftfreq(one.shape[0]) * one.shape[0]
    shell = np.rint(np.sqrt(sum(f**2 for f in np.meshgrid(*[frequency] * 3, indexing="ij")))).astype(int)
    inside = shell <= one.shape[0] // 2

    def sums(values):
        return np.bincount(shell[inside], values[inside].real)

    cross = sums(transforms[0] * transforms[1].conj())
    power = np.sqrt(sums(abs(transforms[0]) ** 2) * sums(abs(transforms[1]) ** 2))
    return cross[power > 0] / power[power > 0]
