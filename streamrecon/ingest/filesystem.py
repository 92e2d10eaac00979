"""What kind of file system a path lies on: inotify and SQLite's WAL only work on local ones."""

from __future__ import annotations

from pathlib import Path

import psutil

from streamrecon.errors import NetworkFilesystem

# as /proc/mounts spells them. Several hosts on one disk (ocfs2, gfs2, StorNext's cvfs) are as bad as a server between
# them; autofs is what stands where a disk that is mounted on use, mostly a server's, is not mounted yet
_NETWORK_TYPES = frozenset(
    {
        "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "gpfs", "lustre", "beegfs", "ceph",
        "glusterfs", "afs", "9p", "pvfs2", "orangefs", "panfs", "weka", "wekafs", "davfs", "ncpfs", "vboxsf",
        "virtiofs", "ocfs2", "gfs", "gfs2", "acfs", "cvfs", "cxfs", "coda", "fhgfs", "beegfs_nodev", "lustre_lite",
        "prl_fs", "vmhgfs", "autofs",
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
    "fuse.moosefs",
    "fuse.lizardfs",
    "fuse.juicefs",
    "fuse.goofys",
    "fuse.gcsfuse",
    "fuse.blobfuse",
    "fuse.objectivefs",
    "fuse.seaweedfs",
    "fuse.quobyte",
    "fuse.alluxio",
    "fuse.daos",
    "fuse.eos",
    "fuse.xrootd",
    "fuse.irods",
    "fuse.oneclient",
    "fuse.curlftpfs",
    "fuse.davfs",
    "fuse.smbnetfs",
    "fuse.gvfsd",
    "fuse.nfs",
    "fuse.vmhgfs",
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


def check_local(path: Path) -> None:
    """Refuse to keep a session's state on another host's disk.

    Raises
    ------
    NetworkFilesystem
        The path lies on one.
    """
    fstype = filesystem_type(path)
    if is_network(fstype):
        raise NetworkFilesystem(
            f"{path}: expected a local file system, found {fstype}, on which SQLite's write-ahead log corrupts and "
            "locks may not hold; set session.output_dir to a folder on a local disk"
        )
