"""What facilities do to a folder: rsync, rewriting, renaming, links, deep trees, unmounting, permissions, clocks."""

import errno
import os
import random
import shutil
import subprocess
import time
from shutil import which

import pytest

from streamrecon.ingest import collect, scan
from streamrecon.ingest.scan import Scan, Wanted
from streamrecon.ingest.waiting_rows import NO_ROWS
from streamrecon.io import write_stack
from tests.integration.ingest_helpers import PIXEL_SIZE, Bench, all_rows, images, put_stack_and_star, star_text

pytestmark = pytest.mark.filterwarnings("ignore:unclosed database")


def commits_of(ledger):
    """Return the list to which every commit of a ledger is added from now on."""
    commits = []
    ledger._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    return commits


@pytest.mark.skipif(which("rsync") is None, reason="rsync is not on PATH (Debian: rsync)")
@pytest.mark.parametrize("options", [(), ("--inplace",), ("--delay-updates",)], ids=lambda o: " ".join(o) or "rename")
def test_moved_in_by_rsync(root, bench, tmp_path, options):
    """Hidden names and half files on the way, old times at the end, and a second run that sends nothing."""
    away = tmp_path / "camera"
    for number in range(3):
        stack, star = put_stack_and_star(away / "grid", f"s{number}.mrcs", 40, seed=number)
        for path in (stack, star):
            os.utime(path, ns=(10**18, 10**18 + number))  # years ago
    for _ in range(2):
        rsync = subprocess.Popen(["rsync", "-a", "--bwlimit=60", *options, f"{away}/", f"{root}/"])
        while rsync.poll() is None:
            bench.round()
        assert rsync.returncode == 0
        bench.until(lambda: bench.ready() == 120)
        bench.for_seconds(0.3)
    assert bench.ready() == 120
    assert sorted(f.name for f in bench.ledger.stacks()) == [f"grid/s{i}.mrcs" for i in range(3)]
    assert bench.ledger.quarantined() == []


def test_a_stack_written_anew_adds_nothing_twice(root, bench):
    stack, star = put_stack_and_star(root, n=5)
    bench.until(lambda: bench.ready() == 5)
    write_stack(stack, images(5, seed=9), PIXEL_SIZE)
    bench.for_seconds(0.3)
    assert bench.ready() == 5
    # longer now, and its STAR too: only what is new
    write_stack(stack, images(8, seed=9), PIXEL_SIZE)
    star.write_text(star_text(all_rows(stack.name, 8)), encoding="utf-8")
    bench.until(lambda: bench.ready() == 8)
    bench.for_seconds(0.3)
    assert bench.ready() == 8
    assert bench.ledger.quarantined() == []


def test_renamed_before_a_star_names_it(root, bench):
    """Written under a working name and renamed: the working name leaves nothing behind."""
    write_stack(root / "working.mrcs", images(5), PIXEL_SIZE)
    bench.until(lambda: bench.state_of("working.mrcs") is not None)
    (root / "working.mrcs").rename(root / "final.mrcs")
    (root / "final.star").write_text(star_text(all_rows("final.mrcs", 5)), encoding="utf-8")
    bench.until(lambda: bench.ready() == 5)
    bench.until(lambda: bench.state_of("working.mrcs") is None)
    assert bench.state_of("final.mrcs") == "ready"


def test_renamed_away_and_back(root, bench):
    stack, _ = put_stack_and_star(root, n=5)
    bench.until(lambda: bench.ready() == 5)
    stack.rename(root / ".away")
    bench.until(lambda: bench.state_of("good.mrcs") == "orphan")
    (root / ".away").rename(stack)
    bench.until(lambda: bench.state_of("good.mrcs") == "ready")
    assert bench.ready() == 5


def test_deeper_than_any_path_may_be(root, bench):
    """A tree that ends beyond the 4096 bytes of a path: its top is read, its bottom reported, the rest goes on."""
    put_stack_and_star(root / "/".join(["d"] * 60), "deep.mrcs", 5)
    folder = os.open(root, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("x" * 200, dir_fd=folder)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("bottom.mrcs", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    found = Scan(Wanted(root, ("*.star",)))
    assert [name for name, _ in found if name.endswith(".star")] == ["/".join(["d"] * 60) + "/deep.star"]
    assert len(found.unreadable) == 1
    assert "too long" in found.unreadable[0]
    bench.until(lambda: bench.ready() == 5)
    shutil.rmtree(root / ("x" * 200))  # pytest could not


def test_links_to_stacks_and_to_nowhere(root, bench, tmp_path):
    stack, _ = put_stack_and_star(tmp_path / "elsewhere", n=5)
    (root / "linked.mrcs").symlink_to(stack)
    (root / "dangling.mrcs").symlink_to(tmp_path / "nothing.mrcs")
    (root / "loop.mrcs").symlink_to(root / "loop.mrcs")
    text = star_text([*all_rows("linked.mrcs", 5), (1, "dangling.mrcs"), (1, "loop.mrcs")])
    (root / "all.star").write_text(text, encoding="utf-8")
    bench.until(lambda: bench.ready() == 5)
    for name in ("dangling.mrcs", "loop.mrcs"):
        bench.until(lambda name=name: bench.state_of(name) == "orphan")
    # and once the link leads somewhere
    write_stack(tmp_path / "nothing.mrcs", images(5, seed=8), PIXEL_SIZE)
    bench.until(lambda: bench.ready() == 6)


def test_a_root_that_is_unmounted_and_comes_back(root, bench):
    put_stack_and_star(root, "first.mrcs", n=5)
    bench.until(lambda: bench.ready() == 5)
    (root / "half.star").write_text(star_text(all_rows("half.mrcs", 4)), encoding="utf-8")
    bench.for_seconds(0.1)
    root.rename(root.with_name("unmounted"))
    bench.for_seconds(0.2)
    root.mkdir()  # the mount point, empty
    root.rmdir()
    bench.for_seconds(0.6)
    root.with_name("unmounted").rename(root)
    write_stack(root / "half.mrcs", images(4), PIXEL_SIZE)
    bench.until(lambda: bench.ready() == 9)
    bench.until(lambda: bench.state_of("first.mrcs") == "ready")
    assert bench.ledger.quarantined() == []


def test_an_empty_mount_point_forgets_nothing(root, bench):
    """The mount point of a disk that is away is a folder, and empty: all seems to be gone, and all comes back."""
    put_stack_and_star(root, "first.mrcs", n=5)
    bench.until(lambda: bench.ready() == 5)
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    bench.for_seconds(0.8)
    assert bench.ready() == 5
    root.rmdir()
    root.with_name("unmounted").rename(root)
    put_stack_and_star(root, "second.mrcs", n=3)
    bench.until(lambda: bench.ready() == 8)
    bench.for_seconds(0.3)
    assert bench.ready() == 8


@pytest.mark.parametrize("what", ["stack", "star", "folder"])
def test_permission_denied_is_waited_out(root, tmp_path, monkeypatch, what):
    """Root may read anything, so the refusal is made up, for each way in: open, list."""
    bench = Bench(root, tmp_path / "ledger.sqlite", orphan=60)
    stack, star = put_stack_and_star(root / "locked", n=5)
    put_stack_and_star(root, "free.mrcs", n=3)
    denied = [True]
    reasons = {"stack": stack, "star": star, "folder": stack.parent}

    def refusing(real):
        def wrapped(path, *arguments, **options):
            if denied[0] and os.fspath(path) == os.fspath(reasons[what]):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return real(path, *arguments, **options)

        return wrapped

    if what == "folder":
        monkeypatch.setattr(scan.os, "scandir", refusing(os.scandir))
    else:
        monkeypatch.setattr(os, "open", refusing(os.open))
    bench.until(lambda: bench.ready() == 3)
    bench.for_seconds(0.2)
    assert bench.ready() == 3
    denied[0] = False
    # nothing but the permission has changed
    bench.until(lambda: bench.ready() == 8)
    bench.ledger.close()


def test_clocks_that_jump(root, bench, monkeypatch):
    """Neither the wall clock of this host nor that of the file server decides when a file is finished."""
    jumps = random.Random(1)
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + jumps.uniform(-1e8, 1e8))
    for number, mtime in enumerate((0, 1, 2**40, 4 * 10**18)):
        for path in put_stack_and_star(root, f"s{number}.mrcs", n=2, seed=number):
            os.utime(path, ns=(mtime, mtime))
    bench.until(lambda: bench.ready() == 8)
    # a file that is still written, by a host whose clock runs backwards, waits all the same
    stack, _ = put_stack_and_star(root, "growing.mrcs", n=2)
    for step in range(20):
        os.utime(stack, ns=(10**18 - step, 10**18 - step))
        bench.round()
        assert bench.ready() == 8
    bench.until(lambda: bench.ready() == 10)


def test_thousands_of_files_at_the_start_cost_few_syncs(root, bench, monkeypatch):
    """A commit is a sync of the disk; there must not be one, let alone two, for each stack."""
    for number in range(150):
        put_stack_and_star(root / f"square{number // 50}", f"s{number:03d}.mrcs", n=2, seed=number)
    commits, steps = commits_of(bench.ledger), []
    real = collect.Collector.step
    monkeypatch.setattr(collect.Collector, "step", lambda *a, **k: (steps.append(1), real(*a, **k))[1])
    bench.until(lambda: bench.ready() == 300, seconds=60)
    # one for the first stack, which decides the sampling, and two a step
    assert len(commits) <= 1 + 2 * len(steps)
    assert len(steps) < 150


def test_rows_that_are_in_the_ledger_take_no_memory(root, bench):
    """Nor is there an empty dictionary for every stack."""
    put_stack_and_star(root, n=200)
    bench.until(lambda: bench.ready() == 200)
    (stack,) = bench.collector._followed.stacks.values()
    assert stack.rows is NO_ROWS


def test_what_a_step_could_not_commit_is_found_again(root, tmp_path, monkeypatch):
    """All that a step found goes into the ledger, or nothing; after a restart it is found again."""
    for number in range(3):
        put_stack_and_star(root, f"s{number}.mrcs", n=4, seed=number)
    bench = Bench(root, tmp_path / "ledger.sqlite")
    real = bench.ledger.put_stack

    def full(record):
        if record.name == "s2.mrcs" and record.count:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(record)

    monkeypatch.setattr(bench.ledger, "put_stack", full)
    with pytest.raises(OSError, match="No space"):
        bench.until(lambda: bench.ready() == 12)
    assert bench.ready() % 4 == 0
    assert bench.ready() < 12
    bench.ledger.close()
    bench = Bench(root, tmp_path / "ledger.sqlite")
    bench.until(lambda: bench.ready() == 12)
    bench.ledger.close()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ETIMEDOUT])
def test_a_root_whose_server_does_not_answer_is_away(root, bench, monkeypatch, number):
    put_stack_and_star(root, n=5)
    bench.until(lambda: bench.ready() == 5)
    real = type(root).is_dir

    def failing(path):
        if path == root:
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(type(root), "is_dir", failing)
    assert not Scan(bench.wanted).root_present
    bench.for_seconds(0.2)
    assert bench.state_of("good.mrcs") == "ready"
