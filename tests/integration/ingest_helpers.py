"""Stacks and STAR files for tests of ingest, and a collector that is driven without the rest of the service."""

import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from streamrecon.ingest.batcher import Batcher
from streamrecon.ingest.collect import Collector
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.metrics import NoIngestMetrics
from streamrecon.ingest.scan import Scan, Wanted
from streamrecon.ingest.tracked import CollectSettings
from streamrecon.io import write_stack
from tests.ledgers import known_sections

BOX = 8
# by the collector's clock, for each round: whatever a busy machine takes for one
_ROUND_SECONDS = 0.02
PIXEL_SIZE = 3.0


def images(n, box=BOX, seed=0):
    return np.random.default_rng(seed).standard_normal((n, box, box)).astype(np.float32)


def star_text(rows, box=BOX, pixel_size=PIXEL_SIZE):
    """RELION 3.1 text; rows are (section from 1, stack name)."""
    lines = [
        "data_optics",
        "",
        "loop_",
        "_rlnOpticsGroupName #1",
        "_rlnOpticsGroup #2",
        "_rlnVoltage #3",
        "_rlnSphericalAberration #4",
        "_rlnAmplitudeContrast #5",
        "_rlnImagePixelSize #6",
        "_rlnImageSize #7",
        f"group1 1 300 2.7 0.1 {pixel_size} {box}",
        "",
        "data_particles",
        "",
        "loop_",
        "_rlnImageName #1",
        "_rlnMicrographName #2",
        "_rlnOpticsGroup #3",
        "_rlnDefocusU #4",
        "_rlnDefocusV #5",
        "_rlnDefocusAngle #6",
    ]
    for section, name in rows:
        text = f"{section:06d}@{name}"
        text = f'"{text}"' if " " in text else text
        lines.append(f"{text} mic.mrc 1 {15000 + section}.5 14800.25 30.5")
    return "\n".join(lines) + "\n"


def all_rows(name, n):
    return [(i + 1, name) for i in range(n)]


def put_stack_and_star(root, name="good.mrcs", n=5, seed=None, box=BOX, pixel_size=PIXEL_SIZE):
    """Write a stack and the STAR beside it that names all its images; return both paths.

    No two names have the same images, unless a seed says so; those of good.mrcs are `images` of seed 0.
    """
    if seed is None:
        seed = 0 if name == "good.mrcs" else zlib.crc32(str(name).encode())
    stack = Path(root) / name
    stack.parent.mkdir(parents=True, exist_ok=True)
    write_stack(stack, images(n, box, seed), pixel_size)
    star = stack.with_suffix(".star")
    star.write_text(star_text(all_rows(stack.name, n), box, pixel_size), encoding="utf-8")
    return stack, star


@dataclass
class CountingMetrics(NoIngestMetrics):
    kinds: list = field(default_factory=list)
    copies: int = 0
    orphan_count: int = 0
    dropped: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    expired: int = 0
    root_is_present: bool | None = None

    def root_present(self, present):
        self.root_is_present = present

    def stack_copied(self):
        self.copies += 1

    def quarantined(self, kind):
        self.kinds.append(kind)

    def orphans(self, count):
        self.orphan_count = count

    def message_dropped(self, reason):
        self.dropped.append(reason)

    def peer_refused(self, reason):
        self.refused.append(reason)

    def lease_expired(self, batches):
        self.expired += batches


class Bench:
    """Scan, collect and batch over a real folder with short times, on a clock of its own.

    It goes on with every round: on a machine that stands still meanwhile no file seems to have stood still.
    """

    def __init__(self, root, ledger_path, settle=0.05, orphan=0.4, batch_size=100, **options):
        self.root = Path(root)
        self.metrics = CountingMetrics()
        self.ledger = Ledger(Path(ledger_path), "test")
        self.wanted = Wanted(self.root, ("*.star", "*.cs"))
        settings = CollectSettings(settle, orphan, **options)
        self.collector = Collector(self.wanted, settings, self.ledger, self.metrics)
        self.batcher = Batcher(self.ledger, self.metrics, batch_size, 0.0)
        self.settle = settle
        self.now = time.monotonic()

    def look(self, rounds=6, budget_seconds=60.0):
        """Scan and collect until nothing changes any more, which needs no waiting."""
        for _ in range(rounds):
            self.now += 2 * self.settle
            self.collector.take_scan(Scan(self.wanted), self.now)
            self.collector.step(self.now, budget_seconds)

    def round(self):
        """Scan and collect once, a moment later."""
        self.now += _ROUND_SECONDS
        self.collector.take_scan(Scan(self.wanted), self.now)
        self.collector.step(self.now)

    def until(self, condition, seconds=60.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.ledger.counts(), self.ledger.quarantined(), self.ledger.stacks())
            self.round()
            time.sleep(0.01)  # beyond a tick of the clock that files are stamped by

    def for_seconds(self, seconds):
        """Let so many seconds of its clock pass."""
        end = self.now + seconds
        while self.now < end:
            self.round()
            time.sleep(0.01)

    def ready(self):
        return self.ledger.counts().particles["ready"]

    def quarantine_of(self, path):
        return [e for e in self.ledger.quarantined() if e.path == path]

    def state_of(self, name):
        files = [*self.ledger.stacks(), *self.ledger.manifests()]
        return next((f.state for f in files if f.name == name), None)

    def good_is_queued(self, name="good.mrcs", n=5):
        """Make batches and say whether they hold all particles of the good stack."""
        self.until(lambda: len(known_sections(self.ledger, name)) == n)
        self.batcher.make(self.now, flush=True)
        queued = self.ledger._connection.execute(
            "SELECT count(*) FROM particles WHERE stack = ? AND state = 'queued'", (name,)
        ).fetchone()[0]
        return queued == n
