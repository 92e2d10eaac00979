import math
import shutil
import threading

import pytest
from prometheus_client import CollectorRegistry

from streamrecon.monitor import disk
from streamrecon.monitor.disk import DiskWatch, disk_space
from streamrecon.monitor.metrics import SupervisorMetrics


def test_the_room_is_what_another_library_finds(tmp_path):
    free, size = disk_space(tmp_path / "not" / "yet" / "there")
    other = shutil.disk_usage(tmp_path)
    assert size == other.total
    assert free == pytest.approx(other.free, rel=0.05)  # others write meanwhile


def test_what_cannot_be_asked_is_not_a_number(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk.os, "statvfs", refuse)
    assert all(map(math.isnan, disk_space(tmp_path)))


def test_a_disk_that_hangs_hides_no_other(tmp_path, monkeypatch):
    hanging, release = threading.Event(), threading.Event()
    registry = CollectorRegistry()
    metrics = SupervisorMetrics(registry)
    told = threading.Event()

    def ask(folder):
        if folder.name == "hangs":
            hanging.set()
            release.wait(120)
        return 1.0, 2.0

    def report(name, free, size):
        metrics.filesystem(name, free, size)
        if name == "output_dir":
            told.set()

    def free_of(name):
        return registry.get_sample_value("streamrecon_supervisor_filesystem_free_bytes", {"folder": name})

    monkeypatch.setattr(disk, "disk_space", ask)
    with DiskWatch({"watch_root": tmp_path / "hangs", "output_dir": tmp_path}, report, every_seconds=0.01):
        assert hanging.wait(90)
        assert told.wait(90)
        assert free_of("output_dir") == 1.0
        assert math.isnan(free_of("watch_root"))
        release.set()
