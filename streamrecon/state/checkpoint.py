"""Checkpoints: a folder of .npy arrays and a manifest that is there as a whole or not at all.

checkpoints/
  CURRENT                 name of the newest durable checkpoint, and its hash
  checkpoint-000123/      manifest.json and one .npy an array
  corrupt-000122/         the last one that failed verification, kept for a look
  unused-000124/          one that was written and never became current, until it would have been pruned
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from streamrecon.errors import CheckpointCorrupt, StateError, StateUnwritable
from streamrecon.io.atomic import sync_folder
from streamrecon.reconstruct.results import EngineState
from streamrecon.state import manifest as manifests
from streamrecon.state.current import CHECKPOINT, FILE_NAME, number_of, read_current, write_current

_TEMPORARY_PREFIX = ".writing-"
_UNUSED = "unused"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is durable."""

    number: int
    path: Path
    bytes: int
    seconds: float


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A verified checkpoint: the engine's state and what the worker put beside it."""

    number: int
    path: Path
    state: EngineState
    extra: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one session.

    Parameters
    ----------
    folder : Path or str
        Made when the first checkpoint is saved.
    keep : int
        That many of the newest are kept.
    """

    def __init__(self, folder: Path | str, keep: int = 3) -> None:
        self.folder = Path(folder)
        self._keep = keep

    def save(self, state: EngineState, extra: Mapping[str, Any]) -> SavedCheckpoint:
        """Write a checkpoint; once this returns it survives a power cut.

        Parameters
        ----------
        state : EngineState
        extra : mapping
            What JSON can hold.

        Raises
        ------
        StateUnwritable
            The disk is full, or there is no permission. The checkpoints there are stay as they are.
        StateError
            It holds a value that JSON cannot hold.
        """
        began = time.monotonic()
        number = max([0, *self._numbers()]) + 1
        final = self._path(number)
        temporary = self.folder / f"{_TEMPORARY_PREFIX}{number:06d}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            temporary.mkdir()
            size = self._write(temporary, number, state, extra)
            sync_folder(temporary)
            temporary.rename(final)
            sync_folder(self.folder)
            write_current(self.folder, final.name)
            self._prune()
        except (OSError, TypeError, OverflowError) as error:
            # on a full disk what was begun takes the room that the next one needs
            shutil.rmtree(temporary, ignore_errors=True)
            unwritable = StateUnwritable if isinstance(error, OSError) else StateError
            raise unwritable(
                f"{final}: the checkpoint cannot be written ({error}); free space or mend the permissions of "
                f"{self.folder}; the checkpoint before it stays valid"
            ) from error
        return SavedCheckpoint(number, final, size, time.monotonic() - began)

    def load_latest(self, check: Callable[[Mapping[str, Any]], None] | None = None) -> LoadedCheckpoint | None:
        """Return the newest checkpoint that verifies, None if there never was one.

        One that is newer than CURRENT was never acknowledged to anybody and is put by: what followed from the
        state before it may differ. Where CURRENT itself does not hold, the newest whole one is used, whatever
        was acknowledged is in it. A corrupt one is logged and set aside, and the one before it is used.

        Parameters
        ----------
        check : callable, optional
            Given what the worker put beside the state, it raises CheckpointCorrupt if what that speaks of is not whole.

        Raises
        ------
        CheckpointCorrupt
            There are checkpoints, but none verifies: starting over silently would count everything twice.
        CheckpointIncompatible
            The newest was written by another release.
        """
        if not self.folder.is_dir():
            return None
        numbers = self._numbers()
        current = self._current(numbers)
        if current is not None:
            self._put_by([n for n in numbers if n > current])
            numbers = [n for n in numbers if n <= current]
        found_corrupt: list[str] = []
        for number in sorted(numbers, reverse=True):
            try:
                loaded = self._load(number)
                if check is not None:
                    check(loaded.extra)
            except CheckpointCorrupt as error:
                _log.error("checkpoint corrupt, trying the one before", number=number, reason=str(error))
                found_corrupt.append(str(error))
                continue
            if found_corrupt:
                self._set_aside([n for n in numbers if n > number])
            return loaded
        if found_corrupt:
            raise CheckpointCorrupt(
                f"{self.folder}: none of {len(found_corrupt)} checkpoints can be read; restore the folder "
                "from a copy, or choose a new session.output_dir to start anew:\n  " + "\n  ".join(found_corrupt)
            )
        return None

    def current_age(self, now: float) -> tuple[int, float] | None:
        """Return number and age in seconds of the newest durable checkpoint, unverified; None without one."""
        try:
            number = read_current(self.folder)
        except CheckpointCorrupt:
            return None
        if number is None:
            return None
        try:
            written = (self._path(number) / manifests.MANIFEST_NAME).stat().st_mtime
        except OSError:
            return None
        return number, max(0.0, now - written)

    def _write(self, folder: Path, number: int, state: EngineState, extra: Mapping[str, Any]) -> int:
        entries = []
        for index, (name, array) in enumerate(state.arrays.items()):
            path = folder / manifests.file_name(index, name)
            if array.dtype.hasobject:
                raise StateError(f"{path}: array {name!r} holds Python objects; only plain numbers can be saved")
            with path.open("wb") as file:
                np.lib.format.write_array(file, np.asarray(array), version=(1, 0), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            entries.append(
                manifests.ArrayEntry(
                    name=name,
                    file=path.name,
                    bytes=path.stat().st_size,
                    blake2b=manifests.hash_file(path),
                    dtype=array.dtype.str,
                    shape=list(array.shape),
                )
            )
        encoded = manifests.encode(
            manifests.Manifest(
                schema_version=manifests.SCHEMA_VERSION,
                number=number,
                created_unix_seconds=time.time(),
                arrays=entries,
                scalars={k: _plain(v) for k, v in state.scalars.items()},
                extra=dict(extra),
            )
        )
        with (folder / manifests.MANIFEST_NAME).open("wb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        return len(encoded) + sum(entry.bytes for entry in entries)

    def _load(self, number: int) -> LoadedCheckpoint:
        path = self._path(number)
        manifest = manifests.read(path)
        if manifest.number != number:
            raise CheckpointCorrupt(f"{path}: expected checkpoint {number}, found {manifest.number} in it")
        arrays = {entry.name: manifests.read_array(path, entry) for entry in manifest.arrays}
        scalars = {k: _from_plain(v) for k, v in manifest.scalars.items()}
        return LoadedCheckpoint(number, path, EngineState(arrays, scalars), manifest.extra)

    def _path(self, number: int, kind: str = CHECKPOINT) -> Path:
        return self.folder / f"{kind}-{number:06d}"

    def _numbers(self, kind: str = CHECKPOINT) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(n for p in self.folder.iterdir() if (n := number_of(p.name, kind)) is not None)

    def _current(self, numbers: list[int]) -> int | None:
        """Return the number that CURRENT names, None if the newest whole checkpoint is to be used."""
        using = "the newest whole checkpoint is used"
        try:
            current = read_current(self.folder)
        except CheckpointCorrupt as error:
            _log.warning(using, reason=str(error))
            return None
        if current is None or current in numbers:
            return current
        _log.warning(using, reason=f"{self.folder / FILE_NAME}: names checkpoint {current}, found {numbers}")
        return None

    def _prune(self) -> None:
        numbers = self._numbers()
        for number in numbers[: -self._keep]:
            shutil.rmtree(self._path(number))
        if len(numbers) >= self._keep:
            for number in self._numbers(_UNUSED):
                if number <= numbers[-self._keep]:
                    shutil.rmtree(self._path(number, _UNUSED))

    def _put_by(self, numbers: list[int]) -> None:
        """Take checkpoints out of the row of those that are used; they are pruned as they would have been."""
        for number in numbers:
            _log.info("checkpoint put by: it was not yet current", number=number)
            unused = self._path(number, _UNUSED)
            if unused.exists():
                shutil.rmtree(unused)
            self._path(number).rename(unused)

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(f"{_TEMPORARY_PREFIX}*"):
            shutil.rmtree(path)

    def _set_aside(self, numbers: list[int]) -> None:
        """Keep the newest corrupt one for a look, out of the way of pruning."""
        for path in self.folder.glob("corrupt-*"):
            shutil.rmtree(path)
        *older, newest = numbers
        for number in older:
            shutil.rmtree(self._path(number))
        self._path(newest).rename(self.folder / f"corrupt-{newest:06d}")


def _plain(value: Any) -> Any:
    """Return a scalar in a form that JSON brings back exactly: NaN and infinity by name."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return {"float": repr(value)}
    # JSON integers end at 64 bits; the state of a random generator does not
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 63:
        return {"int": str(value)}
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, dict):
        ((kind, text),) = value.items()
        return float(text) if kind == "float" else int(text)
    return value
