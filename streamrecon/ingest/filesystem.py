"""What kind of file system a path lies on: inotify and SQLite's WAL only work on local ones."""

from __future__ import annotations

from pathlib import Path

import psutil

_NETWORK_TYPES = frozenset(
    {
        "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "gpfs", "lustre", "beegfs", "ceph",
        "glusterfs", "afs", "9p", "pvfs2", "orangefs", "panfs", "weka", "wekafs", "davfs", "ncpfs", "vboxsf",
        "virtiofs",
    }
)  # fmt: skip
_NETWORK_PREFIXES = (
    "fuse.sshfs",
    "fuse.gluster",
    "fuse.ceph",
    "fuse.beegfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.mfs",
)


def filesystem_type(path: Path) -> str:
    """Return the type of the file system a path lies on (or would lie on), "unknown" if none is found."""
    resolved = path.resolve()
    # Later mounts hide earlier ones at the same place, hence the last of the longest.
    best, fstype = -1, "unknown"
    for mount in psutil.disk_partitions(all=True):
        point = Path(mount.mountpoint)
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, fstype = len(point.parts), mount.fstype
    return fstype


def is_network(fstype: str) -> bool:
    """Return True if other hosts can change files there without this kernel's knowing."""
    return fstype in _NETWORK_TYPES or fstype.startswith(_NETWORK_PREFIXES)
