import errno
import os
import threading
import time

import psutil
import pytest

from streamrecon.ingest import filesystem, watch
from streamrecon.ingest.filesystem import filesystem_type, is_network
from streamrecon.ingest.root import WatchedRoot
from streamrecon.ingest.scan import Scan, Wanted
from streamrecon.ingest.watch import Watcher


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def wanted(root, **options):
    return Wanted(root, ("*.star", "*.cs"), **options)


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(scan):
    return sorted(name for name, _ in scan)


def test_scan_takes_what_matters(root):
    for name in ("a.mrcs", "b.mrc", "d/e/f.star", "g.cs"):
        touch(root / name)
    for name in ("x.txt", ".a.mrcs.Xy12Zq", ".hidden/a.mrcs", "a.mrcs.tmp", ".b.star", "out/map.mrc"):
        touch(root / name)
    scan = Scan(wanted(root, exclude=(root / "out",)))
    assert names(scan) == ["a.mrcs", "b.mrc", "d/e/f.star", "g.cs"]
    assert dict(scan)["a.mrcs"].size == 1
    assert dict(scan)["a.mrcs"].is_regular


def test_scan_says_that_a_folder_is_no_stack(root):
    touch(root / "x.mrcs" / "inside.mrcs")
    scan = Scan(wanted(root))
    assert names(scan) == ["x.mrcs", "x.mrcs/inside.mrcs"]
    assert not dict(scan)["x.mrcs"].is_regular


def test_scan_follows_links_but_not_in_circles(root, tmp_path):
    touch(tmp_path / "elsewhere" / "a.mrcs")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    touch(root / "real" / "b.mrcs")
    (root / "alias").symlink_to(root / "real")
    (root / "dangling.mrcs").symlink_to(root / "nothing")
    assert names(Scan(wanted(root))) == ["linked/a.mrcs", "real/b.mrcs"]


def test_scan_reports_names_that_are_not_utf8(root):
    touch(root / os.fsdecode(b"\xff.mrcs"))
    scan = Scan(wanted(root))
    assert names(scan) == []
    assert scan.unnameable == [f"{root}/\\xff.mrcs"]


def test_pattern_with_a_slash_is_matched_below_the_root(root):
    only = Wanted(root, ("job*/particles.star",))
    assert only("job1/particles.star")
    assert not only("particles.star")


def test_events_are_noticed(root):
    watcher = Watcher(wanted(root), "events", 100.0)
    try:
        assert watcher.scan_due(0.0)
        watcher.scan(0.0)
        assert not watcher.scan_due(99.0)
        assert watcher.scan_due(100.0)
        assert watcher.mode == "events"
        touch(root / "new.mrcs")
        touch(root / "new.txt")
        seen: set[str] = set()
        end = time.monotonic() + 60
        while not seen and time.monotonic() < end:
            seen |= watcher.changed()
            time.sleep(0.02)
        assert seen == {"new.mrcs"}
    finally:
        watcher.stop()


def test_new_folder_brings_the_next_scan_forward(root):
    watcher = Watcher(wanted(root), "events", 1000.0)
    try:
        watcher.scan(0.0)
        (root / "square").mkdir()
        # The clock goes on, as it does in the daemon: the folder is taken at one call, and scanned a second later.
        now = 0.0
        while not watcher.scan_due(now):
            assert now < 500.0, "the scan came no earlier than it would have without the folder"
            now += 0.5
            time.sleep(0.02)
        assert now >= 1.0
    finally:
        watcher.stop()


def test_time_between_scans_follows_what_one_costs(root):
    """A scan takes at most a twentieth of a processor, also where new folders ask for one."""
    watcher = Watcher(wanted(root), "polling", 10.0)
    watcher.scan(0.0)
    watcher.scanned(0.0, 0.4)
    assert watcher.interval_seconds == 10.0
    assert not watcher.scan_due(9.9)
    assert watcher.scan_due(10.0)
    watcher.scan(10.0)
    watcher.scanned(10.0, 2.0)
    assert watcher.interval_seconds == 40.0
    assert not watcher.scan_due(20.0)
    watcher._hints._new_folder = True
    assert not watcher.scan_due(49.9)
    assert watcher.scan_due(50.0)
    watcher.scan(50.0)
    watcher.scanned(50.0, 0.001)
    assert watcher.interval_seconds == 10.0
    assert watcher.scan_due(60.0)


def test_events_come_at_once_however_long_the_next_scan_is_away(root):
    watcher = Watcher(wanted(root), "events", 0.01)
    try:
        list(watcher.scan(0.0))
        watcher.scanned(0.0, 1e9)
        touch(root / "new.mrcs")
        end = time.monotonic() + 60
        while "new.mrcs" not in watcher.changed():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not watcher.scan_due(1e9)
    finally:
        watcher.stop()


@pytest.mark.parametrize(
    "name", [".hidden/a.mrcs", "a/.hidden/b.mrcs", "out/map.mrc", ".a.mrcs.Xy12Zq", "a/.b.star", "x.txt"]
)
def test_what_a_scan_passes_over_no_event_brings(root, name):
    touch(root / name)
    touch(root / "outer" / "map.mrc")
    matters = wanted(root, exclude=(root / "out",))
    assert names(Scan(matters)) == ["outer/map.mrc"]
    assert not matters(matters.name_of(str(root / name)))
    assert matters("outer/map.mrc")
    assert matters.name_of(f"{root}er/map.mrc") is None


def test_root_that_goes_and_returns(root):
    watcher = Watcher(wanted(root), "events", 0.1)
    try:
        touch(root / "a.mrcs")
        assert names(watcher.scan(0.0)) == ["a.mrcs"]
        moved = root.rename(root.with_name("away"))
        scan = watcher.scan(1.0)
        assert not scan.root_present
        assert not watcher.root_present
        moved.rename(root)
        assert names(watcher.scan(2.0)) == ["a.mrcs"]
        assert watcher.root_present
        watcher.changed()
        touch(root / "b.mrcs")
        end = time.monotonic() + 60
        while "b.mrcs" not in watcher.changed():
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        watcher.stop()


def test_polling_where_inotify_runs_out(root, monkeypatch):
    class Exhausted:
        def schedule(self, *_, **__):
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

        def stop(self):
            pass

        def is_alive(self):
            return False

    monkeypatch.setattr(watch, "Observer", Exhausted)
    watcher = Watcher(wanted(root), "events", 1.0)
    touch(root / "a.mrcs")
    assert names(watcher.scan(0.0)) == ["a.mrcs"]
    assert watcher.mode == "polling"


def test_polling_once_an_event_thread_has_ended(root):
    watcher = Watcher(wanted(root), "events", 1.0)
    try:
        watcher.scan(0.0)
        assert watcher._threads
        watcher.scan(1.0)
        assert watcher.mode == "events"
        ended = threading.Thread(target=int)
        ended.start()
        ended.join()
        watcher._threads.append(ended)
        touch(root / "a.mrcs")
        assert names(watcher.scan(2.0)) == ["a.mrcs"]
        assert watcher.mode == "polling"
    finally:
        watcher.stop()


@pytest.mark.parametrize(("fstype", "mode"), [("nfs4", "polling"), ("ext4", "events"), ("fuse.sshfs", "polling")])
def test_auto_polls_network_file_systems(root, monkeypatch, fstype, mode):
    monkeypatch.setattr(watch, "filesystem_type", lambda _: fstype)
    assert Watcher(wanted(root), "auto").mode == mode


def test_auto_chooses_again_when_the_root_comes_or_is_another(root, monkeypatch):
    """A daemon may be started before the disk is mounted, and a disk may come back as another."""
    fstype = ["ext4"]
    monkeypatch.setattr(watch, "filesystem_type", lambda _: fstype[0])
    watcher = Watcher(wanted(root), "auto")
    try:
        watcher.scan(0.0)
        assert watcher.mode == "events"
        root.rename(root.with_name("mount point"))
        fstype[0] = "nfs4"
        root.mkdir()
        watcher.scan(1.0)
        assert watcher.mode == "polling"
        assert watcher._observer is None
        fstype[0] = "ext4"
        watcher.scan(2.0)
        assert watcher.mode == "polling"  # nothing has changed
        moved = root.rename(root.with_name("away"))
        watcher.scan(3.0)
        moved.rename(root)
        watcher.scan(4.0)
        assert watcher.mode == "events"
        assert watcher._observer is not None
    finally:
        watcher.stop()


@pytest.mark.parametrize("mode", ["events", "polling"])
def test_what_was_asked_for_is_not_chosen_again(root, monkeypatch, mode):
    monkeypatch.setattr(watch, "filesystem_type", lambda _: "nfs4" if mode == "events" else "ext4")
    watcher = Watcher(wanted(root), mode)
    try:
        for now in (0.0, 1.0):
            watcher.scan(now)
            assert watcher.mode == mode
            root.rename(root.with_name(f"away{now}"))
            root.mkdir()
    finally:
        watcher.stop()


def test_an_empty_mount_point_is_not_watched(root):
    """It is the disk that is watched; and an empty folder says nothing of the files known in it."""
    touch(root / "a.mrcs")
    watcher = Watcher(wanted(root), "events", root=WatchedRoot(root, lambda _: ["a.mrcs"]))
    try:
        assert names(watcher.scan(0.0)) == ["a.mrcs"]
        (root / "a.mrcs").unlink()
        scan = watcher.scan(1.0)
        assert not scan.root_present
        assert names(scan) == []
        assert watcher._observer is None
        touch(root / "a.mrcs")
        assert names(watcher.scan(2.0)) == ["a.mrcs"]
        assert watcher._observer is not None
    finally:
        watcher.stop()


def test_file_system_type_is_that_of_the_nearest_mount(tmp_path, monkeypatch):
    def mount(point, fstype):
        return psutil._ntuples.sdiskpart("dev", point, fstype, "")

    mounts = [mount("/", "ext4"), mount(str(tmp_path / "data"), "ext4"), mount(str(tmp_path / "data"), "lustre")]
    monkeypatch.setattr(filesystem.psutil, "disk_partitions", lambda all: mounts)
    assert filesystem_type(tmp_path / "data" / "deep" / "ledger.sqlite") == "lustre"
    assert filesystem_type(tmp_path / "database") == "ext4"
    assert is_network("lustre")
    assert not is_network("ext4")


@pytest.mark.parametrize("fstype", ["ocfs2", "gfs2", "fuse.juicefs", "fuse.goofys", "autofs", "fuse.blobfuse2"])
def test_disks_of_several_hosts_are_told(fstype):
    assert is_network(fstype)


@pytest.mark.parametrize("fstype", ["xfs", "btrfs", "zfs", "overlay", "tmpfs", "fuseblk", "fuse.fuse-overlayfs"])
def test_disks_of_this_host_are_told(fstype):
    assert not is_network(fstype)


def test_what_was_mounted_on_use_is_what_it_is_now(tmp_path, monkeypatch):
    point = str(tmp_path)
    mounts = [psutil._ntuples.sdiskpart("dev", point, fstype, "") for fstype in ("ext4", "autofs", "xfs")]
    monkeypatch.setattr(filesystem.psutil, "disk_partitions", lambda all: mounts)
    assert filesystem_type(tmp_path / "output") == "xfs"
    del mounts[-1]
    assert filesystem_type(tmp_path / "output") == "autofs"


def test_root_that_was_replaced_between_two_scans(root):
    watcher = Watcher(wanted(root), "events", 0.1)
    try:
        watcher.scan(0.0)
        root.rename(root.with_name("away"))
        root.mkdir()
        assert watcher.scan(1.0).root_present
        assert watcher.mode == "events"
        touch(root / "b.mrcs")
        end = time.monotonic() + 60
        while "b.mrcs" not in watcher.changed():
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        watcher.stop()
