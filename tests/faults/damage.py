"""Bytes of a checkpoint flipped at random, a ledger cut at random: found, said, and nothing made worse."""

import logging
import random
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import structlog

from streamrecon.errors import CheckpointCorrupt, LedgerCorrupt
from streamrecon.ingest.ledger import Ledger
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.state.manifest import read
from streamrecon.worker.record import check_pose_tables
from tests.e2e.daemon import ended
from tests.faults.exactly_once import assert_exactly_once
from tests.faults.microscope import EARLY_VISITS, PER_MICROGRAPH, PacedSession

# from one start: what its map is worth is nothing to what is damaged, and no other is tried
VISITED_ONCE = EARLY_VISITS.replace("final_sweeps = 3", "final_sweeps = 1").replace("[engine]", "[engine]\nstarts = 1")


@dataclass
class DamageReport:
    """How many flips and cuts were made, all of them found."""

    flips: int
    flips_of_manifest: int
    flips_of_current: int
    flips_of_tables: int
    cuts: int
    particles: int
    refusal: str


def run_damage(folder, *, flips=1000, cuts=200, seed=1):
    """Damage what a stopped session has saved, in many ways one after the other, then let it go on.

    Raises
    ------
    AssertionError
        A damage was not found or not said, or the session did not get over it.
    """
    choose = random.Random(seed)
    session = PacedSession(folder, 15 * PER_MICROGRAPH, seed=seed, more=VISITED_ONCE)
    session.deliver(9)
    session.finish()
    hits = flip_at_random(session.output, folder / "copy", choose, flips)
    tables = hits["poses.rows"] + hits["poses.visits"]
    cut_at_random(session.output / "ledger.sqlite", folder / "cut" / "ledger.sqlite", choose, cuts)
    refusal = go_on(session, choose)
    particles, _ = assert_exactly_once(session)
    return DamageReport(flips, hits["manifest.json"], hits["CURRENT"], tables, cuts, particles, refusal)


def flip_at_random(session, folder, choose, flips):
    """Flip one bit of what the worker keeps, many times over; return how often each file was hit.

    Of CURRENT, the newest checkpoint and the pose tables: each time the newest must be used of what is whole, and it is
    refused where nothing is. Every second time it is the manifest, and every eighth CURRENT, which are short.
    """
    folder.mkdir()
    tables = [shutil.copy(session / name, folder) for name in ("poses.rows", "poses.visits")]
    rows, visits = (Path(table) for table in tables)
    shutil.copytree(session / "checkpoints", folder / "checkpoints")
    store = CheckpointStore(folder / "checkpoints")
    check = partial(check_pose_tables, rows)
    newest = max(store.folder.glob("checkpoint-*"))
    extra = {int(path.name.removeprefix("checkpoint-")): read(path).extra for path in store.folder.glob("checkpoint-*")}
    numbers = sorted(extra)
    assert len(numbers) >= 2
    assert store.load_latest(check).number == numbers[-1]
    assert visits.stat().st_size
    beyond = visits.stat().st_size - extra[numbers[-1]]["pose_visits_bytes"]  # of the first line, less what it replaces
    files = [*sorted(newest.iterdir()), rows, visits]
    hits = Counter()
    # a thousand times the same complaint helps nobody
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for number in range(flips):
        short = store.folder / "CURRENT" if number % 8 == 0 else newest / "manifest.json"
        path = choose.choice(files) if number % 2 else short
        hits[path.name] += 1
        at, bit = choose.randrange(path.stat().st_size), 1 << choose.randrange(8)
        if path == rows:
            whole = [n for n in numbers if extra[n]["pose_spool_bytes"] <= at]
        elif path == visits:
            whole = [n for n in numbers if extra[n]["pose_visits_bytes"] + beyond <= at]
        else:
            whole = numbers if path.parent == store.folder else numbers[:-1]
        flip(path, at, bit)
        if not whole:
            with pytest.raises(CheckpointCorrupt, match=str(folder)):
                store.load_latest(check)
        else:
            assert store.load_latest(check).number == whole[-1], f"{path}: bit {bit} of byte {at}"
        if path.exists():  # the newest may have been set aside
            flip(path, at, bit)
        if whole and whole[-1] != numbers[-1]:
            corrupt = newest.with_name(newest.name.replace("checkpoint", "corrupt"))
            assert corrupt.is_dir()
            shutil.rmtree(store.folder)
            shutil.copytree(session / "checkpoints", store.folder)
    structlog.reset_defaults()
    assert store.load_latest(check).number == numbers[-1]
    return hits


def flip(path, at, bit):
    """Flip one bit of a file."""
    with path.open("rb+") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ bit]))


def cut_at_random(ledger, copy, choose, cuts):
    """Cut copies of a ledger at random lengths; each must be refused as it is, and left as it is.

    Half of them have the log beside them that a kill leaves.
    """
    copy.parent.mkdir()
    log = copy.with_name(f"{copy.name}-wal")
    shutil.copyfile(ledger, copy)
    with closing(Ledger(copy)) as killed:
        killed._database.put_meta("killed", "in mid-session")
        contents = {copy: ledger.read_bytes(), log: log.read_bytes()}
    for number in range(cuts):
        length = (
            choose.choice(range(4096, len(contents[copy]), 4096))
            if number % 2
            else choose.randrange(1, len(contents[copy]))
        )
        left = {copy: contents[copy][:length]} | ({log: contents[log]} if number // 2 % 2 else {})
        log.unlink(missing_ok=True)
        for path, content in left.items():
            path.write_bytes(content)
        with pytest.raises(LedgerCorrupt, match=f"{copy}.*Restore"):
            Ledger(copy).close()
        assert all(path.read_bytes() == content for path, content in left.items()), f"cut to {length} bytes: changed"


def go_on(session, choose):
    """Start the daemon on a cut ledger and an altered checkpoint; return how it refused the ledger.

    It must stop for good at the ledger. With the ledger back it goes on from the checkpoint before the altered one.
    """
    ledger, kept = session.output / "ledger.sqlite", session.folder / "kept.sqlite"
    shutil.copyfile(ledger, kept)
    with ledger.open("rb+") as file:
        file.truncate(choose.randrange(4096, ledger.stat().st_size))
    session.deliver_all()
    with session.run("--until-idle", "2") as daemon:
        code = ended(daemon)
    assert code == 3, session.logged()[-3000:]
    refusal = next(line for line in session.logged().splitlines() if "ledger_corrupt" in line)
    shutil.copyfile(kept, ledger)
    newest = max((session.output / "checkpoints").glob("checkpoint-*"))
    array = choose.choice(sorted(newest.glob("*.npy")))
    flip(array, choose.randrange(array.stat().st_size), 4)
    log = session.finish()
    assert "checkpoint corrupt, trying the one before" in log
    assert (session.output / "checkpoints" / newest.name.replace("checkpoint", "corrupt")).is_dir()
    return refusal
