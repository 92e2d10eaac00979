"""Opening what others put into the watched folder: a regular file, or an error, and never a wait."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from streamrecon.errors import IngestError, UnsupportedFormat


def open_regular(path: Path, otherwise: type[IngestError] = UnsupportedFormat) -> BinaryIO:
    """Open a file for reading; what it is, is asked of the open file, whatever lay there a moment ago.

    Raises
    ------
    UnsupportedFormat, or ``otherwise``
        A folder, a named pipe (to open one would wait for who writes into it) or a device (which may have no end).
    OSError
        It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise otherwise(f"{path}: expected a regular file, found a folder or a device; move it away")
    return os.fdopen(descriptor, "rb")
