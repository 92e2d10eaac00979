"""What tells an image, and a stack, by the pixels, whatever the name, the inode and the file system are.

Noise is never twice the same: images that agree bit for bit are the same image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import IngestError
from streamrecon.io import read_sections

_SAMPLED = 8
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Fingerprint:
    """Of the first ``sections`` sections of a stack.

    Attributes
    ----------
    first : bytes or None
        Digest of the first section: what a stack that grows keeps, and what others are looked up by. None if all
        that were sampled are of one value each: such images are everybody's, and tell nothing.
    sample : bytes
        Digest of eight sections spread evenly, the first and the last among them.
    sections : int
    """

    first: bytes | None
    sample: bytes
    sections: int


def fingerprint(path: Path, sections: int) -> Fingerprint:
    """Return the fingerprint of a stack's first so many sections, at least one.

    Raises
    ------
    IngestError
        As in `read_sections`.
    """
    chosen = np.unique(np.linspace(0, sections - 1, _SAMPLED).round().astype(np.int64))
    images = read_sections(path, chosen)  # (n, ny, nx)
    bits = images.view(np.uint32)
    blank = bool((bits == bits[:, :1, :1]).all())
    return Fingerprint(None if blank else _digest(images[:1]), _digest(images), sections)


def begins_with(path: Path, seen: Fingerprint, wanted: Fingerprint) -> bool:
    """Return True if a stack, of which ``seen`` is the fingerprint, begins with the images of another."""
    if seen.sections <= wanted.sections:
        return seen == wanted
    return holds(path, wanted)


def holds(path: Path, wanted: Fingerprint) -> bool:
    """Return True if a file is there and begins with these images; one of no sections is any."""
    try:
        return wanted.sections == 0 or fingerprint(path, wanted.sections) == wanted
    except IngestError:
        return False


def image_digests(images: NDArray[np.float32]) -> list[bytes]:
    """Return what tells each of some images.

    Parameters
    ----------
    images : ndarray, (n, ny, nx) float32

    Notes
    -----
    SHA-256, which processors have instructions for; cut to 16 bytes, of which no two images of a session will share
    any by chance.
    """
    return [hashlib.sha256(image).digest()[:_DIGEST_BYTES] for image in np.ascontiguousarray(images, "<f4")]


def digests_at(path: Path, sections: Sequence[int]) -> list[bytes] | None:
    """Return what tells the images in some sections of a file; None if they cannot be read."""
    try:
        return image_digests(read_sections(path, sections))
    except IngestError:
        return None


def _digest(images: NDArray[np.float32]) -> bytes:
    shape = np.array(images.shape, "<i8").tobytes()
    return hashlib.blake2b(shape + images.astype("<f4").tobytes(), digest_size=_DIGEST_BYTES).digest()
