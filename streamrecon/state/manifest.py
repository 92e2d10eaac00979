"""The manifest of a checkpoint: what belongs to it, how large each file is and what its bytes hash to."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import CheckpointCorrupt, CheckpointIncompatible

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
_CHUNK = 4 * 2**20
_REMEDY = "the checkpoint before it is used if there is one"


class ArrayEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array of a checkpoint and the file it is in."""

    name: str
    file: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.npy$")]
    bytes: Annotated[int, msgspec.Meta(ge=1)]
    blake2b: str
    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything of a checkpoint but the arrays' values.

    ``scalars`` are the engine's, ``extra`` the worker's (folded batches, length of the pose table, ...).
    """

    schema_version: int
    number: int
    created_unix_seconds: float
    arrays: list[ArrayEntry]
    scalars: dict[str, Any]
    extra: dict[str, Any]


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    """The manifest as text inside JSON, with its own hash: an altered manifest is found, too."""

    blake2b: str
    manifest: msgspec.Raw


class _Version(msgspec.Struct):
    schema_version: int


def encode(manifest: Manifest) -> bytes:
    """Return the bytes of manifest.json."""
    body = msgspec.json.encode(manifest)
    seal = hashlib.blake2b(body, digest_size=32).hexdigest()
    return msgspec.json.encode(_Sealed(seal, msgspec.Raw(body)))


def read(folder: Path) -> Manifest:
    """Read and verify a checkpoint's manifest.

    Raises
    ------
    CheckpointCorrupt
        It is missing, too large, or not what was written.
    CheckpointIncompatible
        It is of another schema version.
    """
    path = folder / MANIFEST_NAME
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise CheckpointCorrupt(f"{path}: {size} bytes, expected at most {MAX_MANIFEST_BYTES}; {_REMEDY}")
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        found = hashlib.blake2b(bytes(sealed.manifest), digest_size=32).hexdigest()
        if found != sealed.blake2b:
            raise CheckpointCorrupt(
                f"{path}: expected a manifest of hash {sealed.blake2b}, found {found}: it was altered; {_REMEDY}"
            )
        version = msgspec.json.decode(sealed.manifest, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise CheckpointIncompatible(
                f"{path}: expected checkpoint schema {SCHEMA_VERSION}, found {version}; resume with the "
                "release that wrote it, or start with a new session.output_dir"
            )
        return msgspec.json.decode(sealed.manifest, type=Manifest)
    except OSError as error:
        raise CheckpointCorrupt(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointCorrupt(f"{path}: expected a manifest, found something else: {error}; {_REMEDY}") from error


def hash_file(path: Path) -> str:
    """Return the BLAKE2b-256 of a file in hexadecimal."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_array(folder: Path, entry: ArrayEntry) -> NDArray[np.generic]:
    """Read one array; nothing is allocated before size, hash and header agree with the manifest.

    Raises
    ------
    CheckpointCorrupt
        They do not, or the file cannot be read.
    """
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise CheckpointCorrupt(f"{path}: expected {entry.bytes} bytes, found {size}; {_REMEDY}")
        found = hash_file(path)
        if found != entry.blake2b:
            raise CheckpointCorrupt(f"{path}: expected hash {entry.blake2b}, found {found}; {_REMEDY}")
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise CheckpointCorrupt(f"{path}: expected .npy format 1.0, found {version}; {_REMEDY}")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        if dtype.hasobject or dtype.str != entry.dtype or list(shape) != entry.shape:
            raise CheckpointCorrupt(
                f"{path}: expected {entry.dtype} {tuple(entry.shape)}, found {dtype.str} {shape}; {_REMEDY}"
            )
        if start + dtype.itemsize * int(np.prod(shape, dtype=np.int64)) != size:
            raise CheckpointCorrupt(f"{path}: the array does not fill its file; {_REMEDY}")
        flat: NDArray[np.generic] = np.fromfile(path, dtype, offset=start)
        return flat.reshape(shape, order="F" if fortran else "C")
    except OSError as error:
        raise CheckpointCorrupt(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    except ValueError as error:
        raise CheckpointCorrupt(f"{path}: is not an .npy array ({error}); {_REMEDY}") from error


def file_name(index: int, name: str) -> str:
    """Return a file name for an array that any file system takes and a person can read."""
    return f"{index:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}.npy"
