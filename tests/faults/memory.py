"""What grows in memory with a session: the stacks that ingest follows, what an export of the poses leaves, the page.

Each is measured in a process of its own, by what the kernel counts as belonging to no file.
"""

import logging
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import structlog

from streamrecon.ingest.scan import Scan
from streamrecon.io import write_stack
from streamrecon.io.pose_spool import PoseSpool
from tests.integration.ingest_helpers import PIXEL_SIZE, Bench, all_rows, images, star_text
from tests.ledgers import known_sections

PARTICLES_A_STACK = 100
_GROWTH = 1.25  # between two exports


def run_memory(folder, *, stacks=2000, poses=500_000, statuses=15_000):
    """Return (how many, MiB) at five moments: of ingest's stacks, exported poses, statuses that a page was told."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        ingest = pool.submit(follow, folder / "ingest", stacks)
        export = pool.submit(exports, folder / "export", poses)
        page = pool.submit(show, folder / "page", statuses)
        return ingest.result(), export.result(), page.result()


def follow(folder, stacks):
    """Let stacks come, a hundred particles each, and ingest take them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    root = folder / "in" / "Extract" / "job007" / "Micrographs"
    root.mkdir(parents=True)
    bench = Bench(folder / "in", folder / "out" / "ledger.sqlite", settle=1.0, orphan=1e9)
    now, found = 1000.0, []
    for number in range(stacks):
        name = f"mic_{number:06d}.mrcs"
        write_stack(root / name, images(PARTICLES_A_STACK, seed=number), PIXEL_SIZE)
        (root / name).with_suffix(".star").write_text(star_text(all_rows(name, PARTICLES_A_STACK)), encoding="utf-8")
        if (number + 1) % max(1, stacks // 50) == 0:
            for _ in range(4):
                now += 2.0
                bench.collector.take_scan(Scan(bench.wanted), now)
                while bench.collector.step(now):
                    pass
            bench.batcher.make(now, flush=True)
        if (number + 1) % (stacks // 5) == 0:
            found.append((number + 1, own_mib()))
    known = sum(len(known_sections(bench.ledger, stack.name)) for stack in bench.ledger.stacks())
    assert known == stacks * PARTICLES_A_STACK
    bench.ledger.close()
    return found


def exports(folder, poses):
    """Let a pose table grow, and have found which rows are the latest of their particle, as each export has."""
    folder.mkdir(parents=True)
    path = folder / "poses.rows"
    path.touch()
    found, number, until = [], 0, max(1, poses // 20)
    while until <= poses:
        with path.open("a", encoding="utf-8") as file:
            for i in range(number, until):
                file.write(f"{i % 100 + 1:06d}@Extract/job007/mic_{i // 100:06d}.mrcs mic_{i // 100:06d}.mrc 1 2 3 4\n")
        number, until = until, int(until * _GROWTH)
        with PoseSpool(path) as spool:
            assert sum(1 for _ in spool.latest()) == number
        found.append((number, own_mib()))
    return [found[round(i * (len(found) - 1) / 4)] for i in range(5)]


def show(folder, statuses):
    """Let a page hear of a session, a map every 20 statuses, an assessment every 200; the publisher is in it, too."""
    from tests.scripted_session import ScriptedSession  # here: the others would carry its libraries

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder.mkdir(parents=True)
    found = []
    with ScriptedSession(folder) as session:
        for number in range(1, statuses + 1):
            seen = 100 * number
            session.publish(seen, maps=number % 20 == 0)
            if number % 20 == 0:
                session.arrived(seen)
                session.tell_ledger(seen + 200, seen)
            if number % 200 == 0:
                session.assess(seen)
            if number % (statuses // 5) == 0:
                found.append((number, own_mib()))
    return found


def own_mib():
    """Return what of this process's memory belongs to no file, MiB."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"^Anonymous: +(\d+) kB$", text, re.MULTILINE).group(1)) / 1024
