"""The files a session leaves: maps, FSC and status, replaced atomically at every snapshot."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streamrecon.io import atomic_path, write_volume
from streamrecon.reconstruct.results import EngineStatus, Snapshot


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Write volume.mrc, half_a.mrc, half_b.mrc, fsc.csv and status.json.

    Each file is replaced as a whole; status.json comes last, so that its number of particles is never ahead of
    the maps beside it.
    """
    for name, volume in (
        ("volume", snapshot.volume),
        ("half_a", snapshot.half_a),
        ("half_b", snapshot.half_b),
    ):
        write_volume(folder / f"{name}.mrc", volume, snapshot.voxel_size_angstrom)
    _write_fsc(folder / "fsc.csv", snapshot)
    about = {
        **status_fields(snapshot.status),
        "resolution_angstrom": _finite(snapshot.resolution_angstrom),
        "fsc_threshold": snapshot.fsc_threshold,
        "box_size": snapshot.volume.shape[-1],
        "voxel_size_angstrom": snapshot.voxel_size_angstrom,
        "optics_groups": [_finite_fields(asdict(group)) for group in snapshot.optics_groups],
    }
    with atomic_path(folder / "status.json") as path:
        path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def status_fields(status: EngineStatus) -> dict[str, Any]:
    """Return a status as JSON can hold it: null for what is not known yet."""
    return _finite_fields(asdict(status))


def _finite_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: _finite(v) if isinstance(v, float) else v for k, v in fields.items()}


def _write_fsc(path: Path, snapshot: Snapshot) -> None:
    length = snapshot.volume.shape[-1] * snapshot.voxel_size_angstrom
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["shell_index", "spatial_frequency_per_angstrom", "resolution_angstrom", "fsc"])
        for shell, value in enumerate(snapshot.fsc.tolist()):
            resolution = f"{length / shell:.4f}" if shell else ""
            out.writerow([shell, f"{shell / length:.6f}", resolution, f"{value:.6f}"])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
