"""Files of other programs: MRC, STAR and .cs; their names for things are known nowhere else."""

from streamrecon.io.atomic import atomic_path, sync_folder
from streamrecon.io.cs import read_cs, write_cs
from streamrecon.io.images import Contrast, check_images, detect_contrast, normalize_background
from streamrecon.io.manifest import (
    check_consistent,
    check_same_sampling,
    check_stack,
    fill_box_size,
    identity_of,
    read_images,
    read_manifest,
)
from streamrecon.io.mrc import StackProbe, check_complete, probe_stack, read_sections, read_volume
from streamrecon.io.mrc_write import StackWriter, volume_bytes, write_stack, write_volume
from streamrecon.io.pose_spool import PoseSpool, SpoolLength
from streamrecon.io.star import read_star
from streamrecon.io.star_write import write_star

__all__ = [
    "Contrast",
    "PoseSpool",
    "SpoolLength",
    "StackProbe",
    "StackWriter",
    "atomic_path",
    "check_complete",
    "check_consistent",
    "check_images",
    "check_same_sampling",
    "check_stack",
    "detect_contrast",
    "fill_box_size",
    "identity_of",
    "normalize_background",
    "probe_stack",
    "read_cs",
    "read_images",
    "read_manifest",
    "read_sections",
    "read_star",
    "read_volume",
    "sync_folder",
    "volume_bytes",
    "write_cs",
    "write_stack",
    "write_star",
    "write_volume",
]
