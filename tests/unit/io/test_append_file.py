"""The file that the pose tables are: who appends never waits for the disk that it is written anew on."""

import threading
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
