"""Holding a daemon to account after a replay: is every particle there, how good is the map?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.cli.status import session_status
from streamrecon.cli.tables import duration
from streamrecon.config import Config
from streamrecon.errors import ManifestMismatch, StateError
from streamrecon.io import read_volume
from streamrecon.worker.loop import SNAPSHOT_FOLDER

_POLL_SECONDS = 0.5


def check_session(
    config: Config,
    particles_of: Mapping[Path, int],
    reference: Path | None,
    patience_seconds: float,
    console: Console,
) -> bool:
    """Wait until the daemon is through with a session, and print what came of it.

    Parameters
    ----------
    config : Config
        The daemon's; its output folder is read.
    particles_of : mapping of Path to int
        How many particles of each stack were replayed.
    reference : Path or None
        A map to compare with; the daemon's is aligned to it, in both hands.
    patience_seconds : float
    console : Console

    Returns
    -------
    bool
        Whether every particle is in the map or in quarantine with a reason.

    Raises
    ------
    StateError
        There is no session in the output folder.
    ManifestMismatch
        The reference has another box.
    """
    began = time.monotonic()
    n_particles = sum(particles_of.values())
    folded, aside, seen = 0, 0, 0
    with console.status("Waiting for the daemon") as shown:
        while True:
            try:
                found = session_status(config, time.time())
            except StateError:
                if time.monotonic() - began > patience_seconds:
                    raise
            else:
                folded, aside = found["particles"]["folded"], _set_aside(found, particles_of)
                seen = (found["reconstruction"] or {}).get("particles_seen", 0)
                shown.update(f"Waiting for the daemon: {folded} of {n_particles} particles folded, {aside} set aside")
                if folded + aside >= n_particles and seen >= folded:
                    break
            if time.monotonic() - began > patience_seconds:
                break
            time.sleep(_POLL_SECONDS)
    waited = time.monotonic() - began
    console.print(f"particles replayed:      {n_particles}")
    console.print(f"folded:                  {folded} ({seen} in the map on disk)")
    console.print(f"quarantined:             {aside}")
    console.print(f"after the last file:     {duration(waited)}")
    if reference is not None and seen:
        _compare(config.session.output_dir / SNAPSHOT_FOLDER / "volume.mrc", reference, console)
    passed = folded + aside == n_particles and seen >= folded
    missing = n_particles - folded - aside
    if passed:
        console.print("passed")
    elif missing < 0:
        console.print(f"failed: {-missing} particles more than were replayed; is the output folder another session's?")
    else:
        console.print(f"failed: {missing} particles are neither in the map nor set aside; see `streamrecon status`")
    return passed


def _set_aside(found: Mapping[str, Any], particles_of: Mapping[Path, int]) -> int:
    """Return how many particles stand in quarantine, by themselves or with their whole stack."""
    entries: Sequence[Mapping[str, Any]] = found["quarantine"]["entries"]
    stacks = {entry["path"] for entry in entries if not entry["identity"]}
    whole = sum(n for path, n in particles_of.items() if str(path) in stacks)
    return int(found["particles"]["quarantined"]) + whole


def _compare(path: Path, reference: Path, console: Console) -> None:
    (expected, voxel), (volume, voxel_found) = read_volume(reference), read_volume(path)
    if expected.shape != volume.shape:
        raise ManifestMismatch(
            f"{reference}: expected {volume.shape[0]} voxels of {voxel_found:g} A as in {path}, found "
            f"{expected.shape[0]} of {voxel:g} A; resample it"
        )
    aligned = align_volumes(expected, volume, voxel)
    curve = fsc_between(expected, aligned.volume, voxel)
    hand = "the other hand" if aligned.mirrored else "the same hand"
    console.print(
        f"against the reference:   FSC 0.5 at {curve.resolution_05_angstrom:.1f} A, 0.143 at "
        f"{curve.resolution_0143_angstrom:.1f} A ({hand})"
    )
