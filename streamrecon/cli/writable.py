"""Can a session be kept in its folder? Asked before `run`, `ingest` or `worker` begins."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

from streamrecon.errors import StateUnwritable
from streamrecon.ingest.filesystem import check_local


def check_writable(folder: Path) -> None:
    """Say at once that nothing can be written or kept there, instead of waiting, or failing again and again.

    Raises
    ------
    StateUnwritable
        It cannot be made or written to. A full disk is none of that: the processes wait until there is room.
    NetworkFilesystem
        It lies on another host's disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise StateUnwritable(
                f"{folder}: cannot be written to ({error.strerror}); choose a session.output_dir that can be written"
            ) from error
    # after it was written to: before, a disk that is mounted when it is used is not there
    check_local(folder)
