"""What is no regular file is not waited for, nor read without end; it may have come in one's place a moment ago."""

import os

import pytest

from streamrecon.errors import UnsupportedFormat
from streamrecon.io import read_cs, read_star


@pytest.mark.timeout(60)  # an open that waits for who writes into the pipe cannot be ended by a signal
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize(("read", "suffix"), [(read_star, ".star"), (read_cs, ".cs")])
def test_manifests_that_are_no_files(tmp_path, kind, read, suffix):
    path = tmp_path / f"particles{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(UnsupportedFormat, match="a folder or a device"):
        read(path)
