"""What tells a stack by its images, whatever its name, its inode and its file system are.

Noise is never twice the same: two stacks whose images agree bit for bit are the same images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamrecon.io import read_sections

_SAMPLED = 8
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Fingerprint:
    """Of the first ``sections`` sections of a stack.

    Attributes
    ----------
    first : bytes
        Digest of the first section: what a stack that grows keeps, and what others are looked up by.
    sample : bytes
        Digest of eight sections spread evenly, the first and the last among them.
    sections : int
    """

    first: bytes
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
    return Fingerprint(_digest(images[:1]), _digest(images), sections)


def _digest(images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    shape = np.array(images.shape, "<i8").tobytes()
    return hashlib.blake2b(shape + images.astype("<f4").tobytes(), digest_size=_DIGEST_BYTES).digest()
