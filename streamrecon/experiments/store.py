"""Results on disk: a cell is a JSON file with its rows and an archive of maps beside it, written whole or not at all.

A cell whose parameters changed is another cell: its file names what it was made from, and one that differs is not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import StateError
from streamrecon.io import atomic_path

_VERSION = 1
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Cell:
    """One unit of work.

    Attributes
    ----------
    part : str
        "tuning", "stream", "starts", "sensitivity", "sampling", "priors", "real" or "relion".
    name : str
        Unique within the part; letters, digits, dots, dashes and underscores.
    parameters : dict
        Everything that the result depends on, as JSON can hold it.
    """

    part: str
    name: str
    parameters: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Return a hash of the parameters."""
        text = json.dumps([_VERSION, self.part, self.name, self.parameters], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Result:
    """What a cell gave: rows of plain values, and maps by name."""

    rows: list[dict[str, Any]]
    volumes: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    cpu_seconds: float = 0.0


class Store:
    """The results of a plan in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, cell: Cell, suffix: str) -> Path:
        return self.folder / "cells" / cell.part / f"{cell.name}{suffix}"

    def has(self, cell: Cell) -> bool:
        """Return whether the cell was run, with these parameters."""
        return self.get(cell) is not None

    def get(self, cell: Cell, *, volumes: bool = False) -> Result | None:
        """Return a cell's result, None if it has not been run with these parameters.

        Raises
        ------
        StateError
            There is a file that is no result.
        """
        path = self._path(cell, ".json")
        if not path.exists():
            return None
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"{path.stat().st_size} bytes")
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["fingerprint"] != cell.fingerprint:
                return None
            maps: dict[str, NDArray[np.float32]] = {}
            if volumes and found["volumes"]:
                with np.load(self._path(cell, ".npz"), allow_pickle=False) as archive:
                    maps = {name: archive[name].astype(np.float32) for name in found["volumes"]}
            return Result(found["rows"], maps, float(found["cpu_seconds"]))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StateError(
                f"{path}: expected the result of a cell, found something else ({error}); remove it, to have it again"
            ) from error

    def put(self, cell: Cell, result: Result) -> None:
        """Keep a result; the JSON comes last, and is what says that it is there."""
        if result.volumes:
            with atomic_path(self._path(cell, ".npz")) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **{k: v.astype(np.float16) for k, v in result.volumes.items()})  # type: ignore[arg-type]  # the stubs take the names for options
        record = {
            "fingerprint": cell.fingerprint,
            "parameters": cell.parameters,
            "volumes": sorted(result.volumes),
            "cpu_seconds": result.cpu_seconds,
            "rows": result.rows,
        }
        with atomic_path(self._path(cell, ".json")) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
