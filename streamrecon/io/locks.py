"""Looking at locks without taking them: a probe that locked, if only for a moment, could turn away the owner."""

from __future__ import annotations

from pathlib import Path

_PROC_LOCKS = Path("/proc/locks")


def is_locked(path: Path) -> bool:
    """Return True if some process on this host holds a flock on the file."""
    try:
        inode = path.stat().st_ino
        lines = _PROC_LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    # "1: FLOCK ADVISORY WRITE pid major:minor:inode start end"; some file systems show another device than stat
    fields = (line.split() for line in lines)
    return any(f[1] == "FLOCK" and f[5].rsplit(":", 1)[-1] == str(inode) for f in fields if len(f) > 5)
