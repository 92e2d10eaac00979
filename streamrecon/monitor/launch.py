"""``python -m streamrecon.monitor.launch PARENT_PID COMMAND...``: run a command that ends with its parent.

The kernel is asked to send SIGHUP when the parent dies, even by SIGKILL. It sends it once for each thread of the
parent that the command is handed on to meanwhile: SIGTERM, of which the second kills, would not do. This is done here,
in a fresh process that then becomes the command, and not between fork and exec of a supervisor with threads, where
Python code may deadlock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the command."""
    parent, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    # the parent may have been told to ignore it, by nohup(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGHUP), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # the parent may have died before the request: then somebody else is our parent by now
    if os.getppid() != int(parent):
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
