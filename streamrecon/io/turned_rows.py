"""Pose rows as the map is published: those that were found in the reconstruction's own frame, turned."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.rotation import rotation_from_euler
from streamrecon.io.star_write import pose_texts

_CHUNK_ROWS = 10_000


def turned_rows(
    rows: Iterable[bytes], orientation: Orientation, pixel_size_angstrom: float, columns_after: int
) -> Iterator[bytes]:
    """Yield rows with rlnAngleRot, Tilt, Psi, rlnOriginXAngst and Y of the published frame; the rest as it is.

    Parameters
    ----------
    rows : iterable of bytes
        Lines of the pose table.
    orientation : Orientation
    pixel_size_angstrom : float
    columns_after : int
        Columns behind the five of the pose.
    """
    if not orientation.turned:
        yield from rows
        return
    waiting = iter(rows)
    while part := list(itertools.islice(waiting, _CHUNK_ROWS)):
        # names before them may hold blanks, the numbers do not: count from the end
        split = [row.rsplit(b" ", 5 + columns_after) for row in part]
        pose = np.array([fields[1:6] for fields in split], np.float64)  # (n, rot tilt psi x y)
        rotation, shift = orientation.publish(rotation_from_euler(pose[:, :3]), -pose[:, 3:], pixel_size_angstrom)
        for fields, texts in zip(split, zip(*pose_texts(rotation, shift), strict=True), strict=True):
            yield b" ".join([fields[0], *(text.encode() for text in texts), *fields[6:]])
