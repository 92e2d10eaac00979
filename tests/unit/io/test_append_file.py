"""The file that the pose tables are: who appends never waits for the disk that it is written anew on."""

import errno
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamrecon.io.append_file import AppendFile


@pytest.fixture
def file(tmp_path):
    file = AppendFile(tmp_path / "rows")
    yield file
    file.close()


def test_while_another_file_takes_its_place_it_is_appended_to_and_read(file):
    file.append(b"old old new ")
    begun, go_on = threading.Event(), threading.Event()

    def write(out, length):
        out.write(b"# " + file.path.read_bytes()[4:length])
        begun.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(file.replace, write, -2)
        assert begun.wait(60)
        assert file.append(b"then ") == 12
        assert file.n_bytes == 17
        assert file.read(4, 13) == b"old new then "
        assert not go_on.is_set()
        go_on.set()
        done.result()
    assert file.append(b"last") == 17
    assert file.path.read_bytes() == b"# old new then last"
    assert file.read(8, 13) == b"new then last"
    assert file.replaced == 1
    assert [path.name for path in file.path.parent.iterdir()] == ["rows"]


def test_what_waits_for_room_is_not_copied_whole_at_each_append(file, monkeypatch):
    """What is traced at most would be twice what waits."""

    def write(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        return real(descriptor, memoryview(data)[:100_000])

    real, room, rows = os.write, [0], [bytes([65 + i % 26]) * 40_000 for i in range(200)]
    monkeypatch.setattr(os, "write", write)
    tracemalloc.start()
    try:
        for row in rows:
            file.append(row)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    whole = b"".join(rows)
    assert most < 1.5 * len(whole)
    for _ in range(50):  # room comes bit by bit
        room[0] = 1
        with pytest.raises(OSError, match="No space"):
            file.write_waiting()
    assert file.read(len(whole) - 50_000, 60_000) == whole[-50_000:]
    assert isinstance(file.read(len(whole) - 10, 10), bytes)
    room[0] = 10**6
    file.sync()
    assert file.path.read_bytes() == whole
