"""A million particles in ten thousand stacks, there before ingest starts: how long, how much memory, how late.

    python -m benchmarks.ingest_scale                  # one STAR a stack, as RELION's extraction leaves them
    python -m benchmarks.ingest_scale --joined         # one STAR that names everything
    python -m benchmarks.ingest_scale --folder-stacks 10000   # all in one folder
    python -m benchmarks.ingest_scale --stacks 3000 --worker  # what a worker gets while ingest has much to look at

The box is tiny (8 pixels), so that what is measured is ingest and not the disk. Printed are the start-up from the first
look to the last particle in the ledger, with the peak of memory; then, with all that in memory, how long a new stack
takes from its rename to its particles in the ledger (beyond `settle_seconds`); what a scan of the known files takes
of the processor, beside the least that it could: listing the folders and asking for each file's size and time; and how
long ingest takes to know everything again when it is started anew, beside the first start.

With ``--worker`` a worker that folds in no time is there from the start, in a process of its own: how many particles
a second it is given until all are in the ledger, and how many after that.
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import os
import re
import resource
import tempfile
import threading
import time
from functools import cache
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from benchmarks.common import parser, print_machine, print_table, write_json
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.metrics import NoIngestMetrics
from streamrecon.ingest.scan import Scan, Wanted
from streamrecon.ingest.service import IngestService, IngestSettings
from streamrecon.io.mrc_write import write_stack
from streamrecon.transport.feed_client import FeedClient

_BOX = 8
_PIXEL_SIZE = 3.0
_SETTLE_SECONDS = 0.2
_SCAN_SECONDS = 30.0
_FOLDER_STACKS = 500  # stacks a folder, as a microscope's grid squares give them
_HEAD = f"""data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
group1 1 300 2.7 0.1 {_PIXEL_SIZE} {_BOX}

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnOpticsGroup #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
"""


def main() -> None:
    arguments = _arguments()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder) / "incoming", Path(folder) / "session"
        _write(root, arguments)
        rows = feed(root, output, arguments) if arguments.worker else measure(root, output, arguments)
    print_table(rows)
    write_json(arguments.json, {"joined": arguments.joined, "rows": rows})


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--stacks", type=int, default=10_000)
    options.add_argument("--particles", type=int, default=100, help="a stack")
    options.add_argument("--folder-stacks", type=int, default=_FOLDER_STACKS, help="stacks in one folder")
    options.add_argument("--joined", action="store_true", help="one STAR for everything, not one a stack")
    options.add_argument("--worker", action="store_true", help="measure what a worker is given, instead")
    options.add_argument("--new", type=int, default=20, help="stacks that come one by one afterwards")
    return options.parse_args()


class _Known(NoIngestMetrics):
    """Notes how many stacks are ready, as ingest itself counts them once it has nothing else to do."""

    stacks = 0

    def files(self, what: str, state: str, count: int) -> None:
        if (what, state) == ("stack", "ready"):
            self.stacks = count


class _TimedIngest(IngestService):
    """Notes what each scan takes of the processor, with all that is done about what it finds."""

    def __init__(self, settings: IngestSettings) -> None:
        self.known = _Known()
        super().__init__(settings, self.known)
        self.scans: list[float] = []

    def _scan(self, now: float) -> None:
        began = time.thread_time()
        super()._scan(now)
        self.scans.append(time.thread_time() - began)


def measure(root: Path, output: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Run ingest over the folder and return the figures, one a row."""
    total = arguments.stacks * arguments.particles
    files = sum(1 for _ in Scan(Wanted(root, ("*.star", "*.cs"))))
    settings = _settings(root, output)
    before = _own_mib()
    began = time.perf_counter()
    run = _Run(settings)
    with Ledger(output / LEDGER_NAME, access="read") as ledger:
        while _known(ledger) < total:
            # counting a million rows takes its time, too
            time.sleep(0.5)
        start_up = time.perf_counter() - began
        peak, own = _peak_mib(), _own_mib()
        latencies = [_one_more(root, ledger, arguments.stacks + i, arguments.particles) for i in range(arguments.new)]
    scans = run.service.scans
    known = len(scans)
    while len(scans) == known:
        time.sleep(0.1)
    least = min(_least_scan(root) for _ in range(3))
    processor_seconds = run.end()
    began = time.perf_counter()
    again = _Run(settings)
    while again.service.known.stacks < arguments.stacks + arguments.new:
        again.check()
        time.sleep(0.01)
    restart = time.perf_counter() - began
    restart_processor_seconds = again.end()
    size = (output / LEDGER_NAME).stat().st_size / 2**20
    return [
        {"what": "files", "value": files},
        {"what": "particles in the ledger", "value": total},
        {"what": "start-up until all are in the ledger, s", "value": start_up},
        {"what": "the same, ms a stack", "value": 1000 * start_up / arguments.stacks},
        {"what": "processor time of the whole run, s", "value": processor_seconds},
        {"what": "peak of memory, MiB", "value": peak},
        {"what": "memory that belongs to no file before, MiB", "value": before},
        {"what": "the same with all in the ledger, MiB", "value": own},
        {"what": "ledger, MiB", "value": size},
        {"what": "a new stack, median latency beyond settling, s", "value": float(np.median(latencies))},
        {"what": "the slowest of them, s", "value": max(latencies)},
        {"what": "a scan of the known files, processor, us a file", "value": 1e6 * scans[known] / files},
        {"what": "scandir and stat alone, us a file", "value": 1e6 * least / files},
        {"what": "ratio", "value": scans[known] / least},
        {"what": "started anew, until all stacks are known again, s", "value": restart},
        {"what": "processor time of that, s", "value": restart_processor_seconds},
        {"what": "started anew, by the first start-up", "value": restart / start_up},
    ]


def feed(root: Path, output: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Run ingest with a worker beside; return what that was given, one a row."""
    total = arguments.stacks * arguments.particles
    spawn = multiprocessing.get_context("spawn")
    given = spawn.Value("q", 0)
    began = time.perf_counter()
    run = _Run(_settings(root, output))
    worker = spawn.Process(target=_fold_in_no_time, args=(run.service.endpoint, given), daemon=True)
    worker.start()
    with Ledger(output / LEDGER_NAME, access="read") as ledger:
        while sum(ledger.counts().particles.values()) < total:
            time.sleep(0.5)
    start_up, early = time.perf_counter() - began, given.value
    while given.value < total:
        run.check()
        time.sleep(0.05)
    rest = time.perf_counter() - began - start_up
    worker.terminate()
    worker.join()
    run.end()
    return [
        {"what": "particles", "value": total},
        {"what": "start-up until all are in the ledger, s", "value": start_up},
        {"what": "particles a second that the worker is given until then", "value": early / start_up},
        {"what": "and after that", "value": (total - early) / rest},
    ]


def _fold_in_no_time(endpoint: str, given: Synchronized[int]) -> None:
    _log_warnings()
    with FeedClient(endpoint, "worker") as client:
        while True:
            item = client.poll(0.5)
            if item is not None:
                client.ack([item[0]])
                given.value += len(item[1].table)


def _settings(root: Path, output: Path) -> IngestSettings:
    _log_warnings()
    return IngestSettings(
        root,
        output,
        settle_seconds=_SETTLE_SECONDS,
        scan_seconds=_SCAN_SECONDS,
        endpoint="tcp://127.0.0.1:0",
        orphan_seconds=1e6,
    )


def _log_warnings() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


class _Run:
    """Ingest in a thread of its own, from its start to its end."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._stop, ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,))
        self._thread.start()
        while not ready.wait(1.0):
            self.check()

    def _serve(self, ready: threading.Event) -> None:
        # here, as the ledger's connection belongs to the thread that made it
        self.service = _TimedIngest(self._settings)
        ready.set()
        self.service.run(self._stop)
        self._processor_seconds = time.thread_time()

    def check(self) -> None:
        """Raise RuntimeError if it has ended by itself."""
        if not self._thread.is_alive():
            raise RuntimeError("ingest has ended; see above")

    def end(self) -> float:
        """Stop it; return what it took of the processor, in seconds."""
        self._stop.set()
        self._thread.join()
        return self._processor_seconds


def _known(ledger: Ledger) -> int:
    counts = ledger.counts().particles
    return counts["ready"] + counts["queued"]


def _one_more(root: Path, ledger: Ledger, number: int, particles: int) -> float:
    """Bring one more stack and its STAR; return seconds to the ledger, less the settling."""
    folder = root / "new"
    _write_one(folder, number, particles)
    began = time.perf_counter()
    while ledger.stack_signature(f"{folder.name}/mic{number:05d}.mrcs") is None:
        time.sleep(0.005)
    return time.perf_counter() - began - _SETTLE_SECONDS


def _write(root: Path, arguments: argparse.Namespace) -> None:
    """Write the stacks: the same images, and to each its number is added, as images that are known count once."""
    text: list[str] = [_HEAD]
    for number in range(arguments.stacks):
        folder = root / f"square{number // arguments.folder_stacks:03d}"
        rows = _write_one(folder, number, arguments.particles, star=not arguments.joined)
        text.append(rows.replace("@", f"@{folder.name}/"))
    if arguments.joined:
        (root / "particles.star").write_text("".join(text), encoding="ascii")


def _write_one(folder: Path, number: int, particles: int, *, star: bool = True) -> str:
    """Write a stack and the STAR that names its images; return the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"mic{number:05d}"
    write_stack(folder / f"{name}.mrcs", _pattern(particles) + np.float32(number), _PIXEL_SIZE)
    rows = "".join(f"{i + 1:06d}@{name}.mrcs {name}.mrc 1 {15000 + i}.5 14800.25 30.5\n" for i in range(particles))
    if star:
        (folder / f"{name}.star").write_text(_HEAD + rows, encoding="ascii")
    return rows


@cache
def _pattern(particles: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).integers(0, 1 << 10, (particles, _BOX, _BOX)).astype(np.float32)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _own_mib() -> float:
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Anonymous: +(\d+) kB$", text, re.MULTILINE)
    assert found is not None  # Linux has had it since 5.0
    return int(found[1]) / 1024


def _least_scan(folder: Path) -> float:
    """Return the processor time of listing everything below a folder and asking for each file's size and time."""

    def walk(folder: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    walk(entry.path)
                else:
                    entry.stat()

    began = time.thread_time()
    walk(str(folder))
    return time.thread_time() - began


if __name__ == "__main__":
    main()
