"""The file that names the newest durable checkpoint, with a hash of the name: an altered one is found."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from streamrecon.errors import CheckpointCorrupt
from streamrecon.io.atomic import atomic_path

FILE_NAME = "CURRENT"
CHECKPOINT = "checkpoint"
_NAME = re.compile(r"([a-z]+)-([0-9]{6,})")
_MOST_BYTES = 1024


def write_current(folder: Path, name: str) -> None:
    """Let a checkpoint be the newest durable one; once this returns it survives a power cut.

    Raises
    ------
    OSError
        It cannot be written; the one before stays.
    """
    with atomic_path(folder / FILE_NAME) as pointer:
        pointer.write_text(f"{name} {_hash(name)}\n", encoding="ascii")


def read_current(folder: Path) -> int | None:
    """Return the number of the newest durable checkpoint; None where none is named.

    Earlier releases wrote the name alone, which cannot be verified.

    Raises
    ------
    CheckpointCorrupt
        The name is not what was written, or the file cannot be read.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            found = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointCorrupt(f"{path}: cannot be read ({error.strerror})") from error
    name, *hashes = found.decode("ascii", "replace").split(" ")
    number = number_of(name.removesuffix("\n"), CHECKPOINT)
    if number is None or (hashes and hashes != [f"{_hash(name)}\n"]):
        raise CheckpointCorrupt(f"{path}: expected a checkpoint's name and its hash, found {found[:120]!r}")
    return number


def number_of(name: str, kind: str) -> int | None:
    """Return the number in a name as ``checkpoint-000123``, None if it is not one of that kind."""
    match = _NAME.fullmatch(name)
    return int(match[2]) if match and match[1] == kind else None


def _hash(name: str) -> str:
    return f"blake2b:{hashlib.blake2b(name.encode('ascii', 'replace'), digest_size=32).hexdigest()}"
