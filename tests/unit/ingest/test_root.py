"""Whether the watched folder is there, of all that a file server may leave in its place."""

import errno
import os

import pytest

from streamrecon.ingest.root import WatchedRoot


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


class Devices:
    """Makes the root lie on a device of the test's choice."""

    def __init__(self, monkeypatch, root):
        self.number = None
        real = type(root).stat

        def stat(path, **options):
            status = real(path, **options)
            if path != root or self.number is None:
                return status
            return os.stat_result((*status[:2], self.number, *status[3:10]))

        monkeypatch.setattr(type(root), "stat", stat)


def test_a_folder_of_which_nothing_is_known_may_be_empty(root):
    there = WatchedRoot(root, lambda _: [])
    assert there.look()
    assert there.identity == (root.stat().st_dev, root.stat().st_ino)


def test_an_empty_folder_in_which_files_are_known_is_a_mount_point(root):
    there = WatchedRoot(root, lambda _: ["a.mrcs"])
    (root / ".hidden").touch()
    assert not there.look()
    assert there.identity is None
    assert "empty" in there.away
    (root / "new.mrcs").touch()
    assert there.look()
    assert there.away == ""


@pytest.mark.parametrize("known", [[], ["a.mrcs"]], ids=["new", "known"])
def test_what_cannot_be_listed_is_away(root, monkeypatch, known):
    (root / "a.mrcs").touch()
    there = WatchedRoot(root, lambda _: known)
    assert there.look()

    def fails(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patch:
        patch.setattr("streamrecon.ingest.root.os.scandir", fails)
        assert not there.look()
        assert "Stale file handle" in there.away
    assert there.look()
    (root / "a.mrcs").unlink()
    root.rmdir()
    assert not there.look()
    root.touch()
    assert not there.look()


def test_another_device_is_away_until_something_known_is_there(root, monkeypatch):
    devices = Devices(monkeypatch, root)
    (root / "a.mrcs").touch()
    there = WatchedRoot(root, lambda most: ["gone.mrcs", "a.mrcs"][:most])
    devices.number = 7
    assert there.look()
    (root / "a.mrcs").rename(root / "left-behind.txt")
    assert there.look()  # the same device: files come and go
    devices.number = 8
    assert not there.look()
    assert "another device" in there.away
    devices.number = 7
    assert there.look()
    devices.number = 8
    assert not there.look()
    # the file server is back, under another number
    (root / "left-behind.txt").rename(root / "a.mrcs")
    assert there.look()
    (root / "a.mrcs").rename(root / "b.mrcs")
    assert there.look()


def test_another_device_is_as_good_while_nothing_is_known(root, monkeypatch):
    devices = Devices(monkeypatch, root)
    there = WatchedRoot(root, lambda _: [])
    for devices.number in (7, 8):
        assert there.look()
        assert there.identity[0] == devices.number


def test_it_is_looked_at_once_a_second_unless_asked(root):
    now = [0.0]
    there = WatchedRoot(root, lambda _: [], lambda: now[0])
    assert there.look_now_and_then()
    root.rmdir()
    now[0] = 0.9
    assert there.look_now_and_then()
    now[0] = 1.0
    assert not there.look_now_and_then()
