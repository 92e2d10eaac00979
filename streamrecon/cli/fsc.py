"""``streamrecon fsc``: how alike two maps are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from streamrecon.assess.align import FscCurve, align_volumes, fsc_between, search_size
from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.errors import ConfigError, ManifestMismatch
from streamrecon.io import atomic_path, read_volume, write_volume


def fsc(
    first: Annotated[Path, typer.Argument(help="MRC map; the reference when aligning.")],
    second: Annotated[Path, typer.Argument(help="MRC map of the same box and voxel size.")],
    align: Annotated[
        bool, typer.Option("--align", help="First search rotation, shift and both hands, and refine them.")
    ] = False,
    mask: Annotated[Path | None, typer.Option(help="MRC mask, 0 to 1, applied to both.")] = None,
    curve: Annotated[Path | None, typer.Option(help="Write the curve as CSV.")] = None,
    aligned: Annotated[Path | None, typer.Option(help="Write the second map, aligned, as MRC.")] = None,
) -> None:
    """Print the Fourier shell correlation of two maps and where it crosses 0.5 and 0.143.

    Example: streamrecon fsc truth.mrc out/volume.mrc --align
    """
    console = Console(highlight=False)
    with errors_as_exit_codes():
        if aligned is not None and not align:
            raise ConfigError("--aligned: expected --align beside it, found none; nothing would be aligned")
        (volume_1, voxel), (volume_2, voxel_2) = read_volume(first), read_volume(second)
        if volume_1.shape != volume_2.shape or not np.isclose(voxel, voxel_2, rtol=1e-3):
            raise ManifestMismatch(
                f"{second}: expected {volume_1.shape[0]} voxels of {voxel:g} A as in {first}, found "
                f"{volume_2.shape[0]} of {voxel_2:g} A; resample one of them"
            )
        if align:
            with Progress(console=Console(stderr=True), transient=True) as progress:
                task = progress.add_task("Searching rotations, both hands", total=search_size())
                found = align_volumes(volume_1, volume_2, voxel, lambda n: progress.advance(task, n))
            volume_2 = found.volume
            hand = "mirrored: the second map has the other hand" if found.mirrored else "same hand"
            console.print(
                f"aligned: {hand} (correlation {found.correlation:.3f}, other hand "
                f"{found.other_hand_correlation:.3f}), shift {np.round(found.shift_angstrom, 1).tolist()} A"
            )
            if aligned is not None:
                write_volume(aligned, volume_2, voxel)
        mask_volume = read_volume(mask)[0] if mask is not None else None
        if mask_volume is not None and mask_volume.shape != volume_1.shape:
            raise ManifestMismatch(
                f"{mask}: expected {volume_1.shape[0]} voxels a side as in {first}, found {mask_volume.shape[0]}; "
                "resample it"
            )
        result = fsc_between(volume_1, volume_2, voxel, mask_volume)
        for threshold, value in (("0.5", result.resolution_05_angstrom), ("0.143", result.resolution_0143_angstrom)):
            console.print(f"FSC {threshold}: {value:.2f} A")
        if curve is not None:
            write_curve(curve, result)


def write_curve(path: Path, curve: FscCurve) -> None:
    """Write shell, spatial frequency and FSC as CSV, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["shell_index", "spatial_frequency_per_angstrom", "fsc"])
        for shell, (k, value) in enumerate(zip(curve.spatial_frequency_per_angstrom, curve.fsc, strict=True)):
            out.writerow([shell, f"{k:.6f}", f"{value:.6f}"])
