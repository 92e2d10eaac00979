"""The log of visits against a dictionary: at every length a checkpoint holds, whatever was compacted or cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamrecon.errors import CheckpointCorrupt
from streamrecon.io import atomic
from streamrecon.io.atomic import atomic_path
from streamrecon.io.visit_log import VisitLog, rows_of

KEEP = 3  # checkpoints


class Killed(BaseException):
    """Stands for the end of the process."""


def row(particle, value):
    # a name in quotes and one with the same beginning: what tells particles apart is the whole name
    name = f"'{particle:06d}@a stack.mrcs'" if particle % 2 else f"{particle:06d}@stack.mrcs"
    return f"{name} {value}\n".encode()


def last_rows(log):
    """Read the file without the package's own idea of it: the last row of each name counts."""
    found = {}
    for line in log.path.read_bytes().splitlines():
        if not line.startswith(b"#"):
            name, value = line.rsplit(b" ", 1)
            found[name] = int(value)
    return found


def as_rows(values):
    return {row(particle, 0).rsplit(b" ", 1)[0]: value for particle, value in values.items()}


class Log(RuleBasedStateMachine):
    """Visits, checkpoints, compactions that are cut off anywhere, and restarts from any checkpoint that is kept."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.log = VisitLog(self.folder / "poses.visits", least_bytes=1)
        self.values, self.count, self.visits = {}, 0, 0
        self.checkpoints = [(0, 0, {}, 0)]

    @rule(particles=st.lists(st.integers(0, 5), min_size=1, max_size=8))
    def visit(self, particles):
        rows = []
        for particle in particles:
            self.count += 1
            self.visits += 1
            self.values[particle] = self.count
            rows.append(row(particle, self.count))
        self.log.append(rows)

    @rule()
    def checkpoint(self):
        self.log.sync()
        recorded = (self.log.n_bytes, self.log.crc32, dict(self.values), self.visits)
        self.checkpoints = [*self.checkpoints, recorded][-KEEP:]

    @rule()
    def compact(self):
        before = self.log.path.stat().st_size
        if self.log.compact(*self.checkpoints[0][:2]):
            assert self.log.path.stat().st_size <= before + 200  # its first line
            with self.log.reading() as file:
                old = list(rows_of(file))
            # what no checkpoint can go back to is there once
            assert len(old) <= len(self.checkpoints[0][2]) + self.visits - self.checkpoints[0][3]

    @rule(step=st.integers(0, 6), at=st.integers(0, KEEP - 1), torn=st.integers(0, 30))
    def die(self, step, at, torn):
        """End at a step of a compaction, or behind it; go on from a checkpoint."""
        with pytest.MonkeyPatch.context() as patch:
            left = [step]

            def dies(real):
                def call(*args, **kwargs):
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return real(*args, **kwargs)

                return call

            patch.setattr(os, "fsync", dies(os.fsync))
            patch.setattr(os, "open", dies(os.open))
            patch.setattr(Path, "replace", dies(Path.replace))
            with suppress(Killed):
                self.log.compact(*self.checkpoints[0][:2])
        # no orderly end: the descriptor goes, and the last write may be there in part
        self.log.close()
        with self.log.path.open("ab") as file:
            file.write(row(9, 9)[:torn])
        self.log = VisitLog(self.log.path, least_bytes=1)
        self.checkpoints = self.checkpoints[: at + 1]
        length, crc32, values, self.visits = self.checkpoints[-1]
        self.log.truncate(length, crc32)
        self.values = dict(values)

    @rule(at=st.integers(0, 10**4), bit=st.integers(0, 7))
    def alter(self, at, bit):
        """Flip a bit: found at the lengths that it lies before, at no other, and not written anew by a compaction."""
        good = self.log.path.read_bytes()
        if not good:
            return
        at %= len(good)
        altered = bytearray(good)
        altered[at] ^= 1 << bit
        self.log.path.write_bytes(altered)
        more = len(good) - self.log.n_bytes  # what the file has beyond what was appended
        for length, crc32, _, _ in self.checkpoints:
            found = True
            with suppress(CheckpointCorrupt), VisitLog(self.log.path) as log:
                log.check(length, crc32)
                found = False
            assert found == (at < length + more)
        length, crc32 = self.checkpoints[0][:2]
        if at < length + more:
            with suppress(CheckpointCorrupt):
                assert not self.log.compact(length, crc32)
            assert self.log.path.read_bytes() == altered
        self.log.path.write_bytes(good)

    @invariant()
    def holds_the_last_row_of_each_particle(self):
        assert last_rows(self.log) == as_rows(self.values)
        with self.log.reading() as file:
            assert self.log.dropped_rows + sum(1 for _ in rows_of(file)) == self.visits

    def teardown(self):
        self.log.close()
        shutil.rmtree(self.folder)


Log.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLog = Log.TestCase


def test_it_grows_with_the_particles_and_not_with_the_visits(tmp_path):
    log = VisitLog(tmp_path / "poses.visits", least_bytes=2000)
    lengths, worked = [0] * KEEP, 0
    for sweep in range(200):
        log.append(row(particle, sweep) for particle in range(50))
        log.sync()
        lengths = [*lengths, log.n_bytes][-KEEP:]
        size = log.path.stat().st_size
        if log.compact(lengths[0]):
            worked += size
    one = len(row(0, 100)) * 50 + 50 * 3  # bytes of a sweep, at most
    assert log.n_bytes > 150 * one / 2
    assert log.path.stat().st_size < (2 + KEEP + 1) * one + 2000
    assert worked < 5 * log.n_bytes  # bytes read again, of all that were appended
    assert log.dropped_rows > 190 * 50
    with pytest.raises(CheckpointCorrupt, match="go from"):
        log.truncate(lengths[0] // 2)
    log.close()


def test_what_earlier_releases_compacted_is_read_and_verified_from_then_on(tmp_path):
    """Their first line has no CRC-32."""
    path = tmp_path / "poses.visits"
    dropped = len(row(1, 1)) + len(row(2, 1))
    rest = [row(3, 1), row(1, 2), row(2, 2)]
    through = dropped + len(rest[0]) + len(rest[1])
    line = b"# compacted: %020d bytes and %020d rows were dropped of the first %020d bytes\n" % (dropped, 2, through)
    path.write_bytes(line + b"".join(rest))
    with VisitLog(path, least_bytes=1) as log:
        log.truncate(through + len(rest[2]))
        assert last_rows(log) == as_rows({3: 1, 1: 2, 2: 2})
        log.append([row(3, 3)])
        length, crc32 = log.n_bytes, log.crc32
    good = path.read_bytes()
    for at in range(8 * len(good)):
        altered = bytearray(good)
        altered[at // 8] ^= 1 << at % 8
        path.write_bytes(altered)
        if line[at // 8 : at // 8 + 1].isdigit() and at // 8 > len(b"# compacted: ") + 20:
            continue  # by the count of rows and by what is the least length to go back to nothing is found
        with pytest.raises(CheckpointCorrupt), VisitLog(path) as log:
            log.check(length, crc32)
    path.write_bytes(good)
    with VisitLog(path, least_bytes=1) as log:
        log.truncate(length, crc32)
        log.append([row(3, value) for value in range(4, 14)])
        length, crc32 = log.n_bytes, log.crc32
        assert log.compact(length, crc32)
        assert (log.n_bytes, log.crc32) == (length, crc32)
        assert last_rows(log) == as_rows({3: 13, 1: 2, 2: 2})
    with VisitLog(path) as log:
        log.check(length, crc32)
        assert log.dropped_rows == 2 + 11


def test_a_first_line_of_another_kind_is_said(tmp_path):
    (tmp_path / "poses.visits").write_text("# made by hand\n")
    with pytest.raises(CheckpointCorrupt, match=r"poses\.visits: expected what was dropped"):
        VisitLog(tmp_path / "poses.visits")


def test_without_room_the_old_file_stays(tmp_path, monkeypatch):
    log = VisitLog(tmp_path / "poses.visits", least_bytes=1)
    for sweep in range(4):
        log.append([row(1, sweep)])
    log.sync()
    before = log.path.read_bytes()

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert not log.compact(log.n_bytes)
    assert log.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["poses.visits"]
    log.append([row(2, 5)])
    assert log.compact(log.n_bytes)
    assert last_rows(log) == as_rows({1: 3, 2: 5})
    log.close()


def test_where_the_new_file_is_there_but_not_durable_it_goes_on_in_that(tmp_path, monkeypatch):
    with VisitLog(tmp_path / "poses.visits", least_bytes=1) as log:
        log.append([row(1, 1), row(1, 2)])
        log.sync()
        length = log.n_bytes

        def broken(folder):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(atomic, "sync_folder", broken)
            with pytest.raises(OSError, match="Input/output"):
                log.compact(length)
        log.append([row(2, 3)])
        assert log.n_bytes == length + len(row(2, 3))
        assert last_rows(log) == as_rows({1: 2, 2: 3})
        log.truncate(length)
        assert last_rows(log) == as_rows({1: 2})


def test_rows_that_come_during_a_compaction_are_not_lost(tmp_path):
    with VisitLog(tmp_path / "poses.visits", least_bytes=1) as log, ThreadPoolExecutor(1) as thread:
        appended, compacted = 0, 0
        while compacted < 20:
            rows = [row(particle, appended + i) for i, particle in enumerate((1, 2, 3, 1))]
            log.append(rows)
            appended += 4
            log.sync()
            done = thread.submit(log.compact, log.n_bytes)
            while not done.done():
                log.append([row(1, appended)])
                appended += 1
            compacted += done.result()
        total = sum(len(line) for line in log.path.read_bytes().splitlines(keepends=True) if not line.startswith(b"#"))
        assert log.n_bytes - total == log._past.dropped_bytes
        with log.reading() as file:
            assert log.dropped_rows + sum(1 for _ in rows_of(file)) == appended
        assert last_rows(log)[row(1, 0).rsplit(b" ", 1)[0]] == appended - 1


CHILD = """
import sys
from pathlib import Path
from tests.property.test_visit_log import visit_for_ever
visit_for_ever(Path(sys.argv[1]))
"""
PARTICLES = 300


def visited(step):
    return np.random.default_rng(step).integers(0, PARTICLES, 100).tolist()


def visit_for_ever(folder):
    """Visit, make durable, write down what a checkpoint would, compact; go on from what was written down last."""
    current = folder / "CURRENT"
    log = VisitLog(folder / "poses.visits", least_bytes=1)
    kept = json.loads(current.read_text()) if current.exists() else [[0, 0]] * KEEP
    log.truncate(kept[-1][1])
    step = kept[-1][0]
    while True:
        step += 1
        log.append(row(particle, step) for particle in visited(step))
        log.sync()
        log.compact(kept[0][1])
        kept = [*kept, [step, log.n_bytes]][-KEEP:]
        with atomic_path(current) as temporary:
            temporary.write_text(json.dumps(kept))


def test_killed_at_any_moment_each_kept_checkpoint_is_whole(tmp_path):
    folder = tmp_path / "session"
    folder.mkdir()
    reached = 0
    for kill in range(4):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], cwd=Path(__file__).parents[2])
        try:
            goal = reached + 30 + 7 * kill
            while child.poll() is None and reached < goal:
                if (folder / "CURRENT").exists():
                    reached = json.loads((folder / "CURRENT").read_text())[-1][0]
        finally:
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        for step, length in json.loads((folder / "CURRENT").read_text()):
            copy = tmp_path / f"{kill}-{step}.visits"
            shutil.copy(folder / "poses.visits", copy)
            log = VisitLog(copy)
            log.truncate(length)
            expected = {particle: s for s in range(1, step + 1) for particle in visited(s)}
            assert last_rows(log) == as_rows(expected)
            log.close()
    assert (folder / "poses.visits").stat().st_size < 100 * reached * len(row(0, 100)) / 4
