"""``streamrecon postprocess``: two half maps to mask, corrected FSC, sharpened map and more."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from streamrecon.assess.fsc_curves import CRYOSPARC_RANDOMISE_BELOW, RELION_RANDOMISE_BELOW, FscCurves, fsc_curves
from streamrecon.assess.half_maps import HalfMapAssessment, assess_half_maps, make_mask
from streamrecon.assess.local_resolution import local_resolution
from streamrecon.assess.masks import check_mask
from streamrecon.assess.symmetry import impose_symmetry
from streamrecon.assess.symmetry_search import ACCEPTED, FoundSymmetry, find_symmetry, locate_symmetry
from streamrecon.cli.exit_codes import errors_as_exit_codes
from streamrecon.compare.postprocess_sheet import draw_postprocess_sheet
from streamrecon.errors import ConfigError, ManifestMismatch, NumericalError
from streamrecon.geometry.symmetry import normalised_group
from streamrecon.io import atomic_path, read_volume, write_volume
from streamrecon.io.postprocess_star import write_postprocess_star

Halves = tuple[NDArray[np.float32], NDArray[np.float32]]


def postprocess(
    half_a: Annotated[Path, typer.Argument(help="MRC half map.")],
    half_b: Annotated[Path, typer.Argument(help="The other half map, of the same box and voxel size.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what is made.")],
    mask: Annotated[str, typer.Option(help="auto, sphere, or an MRC mask, 0 to 1.")] = "auto",
    diameter: Annotated[float, typer.Option(min=0, help="Of the sphere, angstrom; 0: 0.8 of the box.")] = 0.0,
    symmetry: Annotated[
        str, typer.Option(help="C1: none. auto: impose what the map shows. C3, D2, T, O, I ...: impose that.")
    ] = "C1",
    local: Annotated[bool, typer.Option("--local", help="Local resolution too.")] = False,
    b_factor: Annotated[
        float | None, typer.Option(help="Apply this (negative sharpens) instead of the fitted one.")
    ] = None,
    randomise_below: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="Randomise phases from where the unmasked FSC falls below this: "
            f"{RELION_RANDOMISE_BELOW:g} as RELION, {CRYOSPARC_RANDOMISE_BELOW:g} as cryoSPARC.",
        ),
    ] = RELION_RANDOMISE_BELOW,
    seed: Annotated[int, typer.Option(min=0, help="Of the random phases.")] = 0,
) -> None:
    """Mask, correct, sharpen: what two unfiltered half maps hold.

    Writes sharpened.mrc, mask.mrc, fsc.csv, postprocess.star (as RELION's), postprocess.png; with --local
    local_resolution.mrc; with a symmetry the half maps it was imposed on.

    Example: streamrecon postprocess run_half1_class001_unfil.mrc run_half2_class001_unfil.mrc -o post/
    """
    console = Console(highlight=False)
    with errors_as_exit_codes(), console.status("Reading the half maps") as shown:
        group = _group(symmetry)
        halves, voxel = _read(half_a, half_b)
        output.mkdir(parents=True, exist_ok=True)
        found_symmetry: FoundSymmetry | None = None
        if group != "C1":
            shown.update("Symmetry")
            found_symmetry = _symmetry(halves, voxel, group)
            if found_symmetry.group != "C1":
                placement = found_symmetry.placement
                first, second = (impose_symmetry(h, found_symmetry.group, placement) for h in halves)
                halves = (first, second)
                for name, half in zip(("half_a", "half_b"), halves, strict=True):
                    write_volume(output / f"{name}_{found_symmetry.group}.mrc", half, voxel)
        shown.update("Mask, FSC, sharpening")
        if mask in ("auto", "sphere"):
            mask_volume = make_mask(mask, *halves, voxel, diameter_angstrom=diameter)
        else:
            mask_volume = check_mask(*read_volume(Path(mask)), len(halves[0]), voxel, mask)
        found = assess_half_maps(
            *halves,
            voxel,
            mask_volume,
            b_factor_angstrom2=b_factor,
            randomise_below=randomise_below,
            seed=seed,
        )
        shown.update("Local resolution" if local else "Writing")
        local_map = local_resolution(*halves, voxel, mask_volume, seed=seed) if local else None
        _write(output, found, voxel, (half_a, half_b), local_map)
    console.print(_table(found, found_symmetry, local_map))


def _group(symmetry: str) -> str:
    """Return "auto" or the group's name.

    Raises
    ------
    ConfigError
        There is no such group.
    """
    if symmetry == "auto":
        return symmetry
    try:
        return normalised_group(symmetry)
    except ValueError as error:
        raise ConfigError(f"--symmetry: {error}") from error


def _read(first: Path, second: Path) -> tuple[Halves, float]:
    """Read both halves.

    Raises
    ------
    ManifestMismatch
        They are not two cubes of one even box and voxel size.
    """
    (a, voxel), (b, voxel_b) = read_volume(first), read_volume(second)
    if a.shape != b.shape or not np.isclose(voxel, voxel_b, rtol=1e-3):
        raise ManifestMismatch(
            f"{second}: expected {a.shape} voxels of {voxel:g} A as in {first}, found {b.shape} of {voxel_b:g} A; "
            "give two halves of one reconstruction"
        )
    if len(set(a.shape)) != 1 or len(a) % 2 or len(a) < 16:
        raise ManifestMismatch(
            f"{first}: expected a cube of an even number of voxels, at least 16, found {a.shape}; pad it"
        )
    return (a, b), voxel


def _symmetry(halves: Halves, voxel: float, group: str) -> FoundSymmetry:
    """Find where the axes lie.

    Raises
    ------
    NumericalError
        The map does not show the group that was asked for.
    """
    mask = make_mask("auto", *halves, voxel)
    curves = fsc_curves(*halves, voxel, mask)
    mean = (halves[0] + halves[1]) / 2 * mask
    if group == "auto":
        return find_symmetry(mean, curves.corrected)
    found = locate_symmetry(mean, group, curves.corrected)
    if found.correlation < ACCEPTED:
        raise NumericalError(
            f"expected a map with symmetry {group}, found one that agrees with itself by {found.correlation:.2f} under "
            f"its axes (accepted from {ACCEPTED:g} on); leave --symmetry out, or try --symmetry auto"
        )
    return found


def _write(
    output: Path,
    found: HalfMapAssessment,
    voxel: float,
    half_names: tuple[Path, Path],
    local_map: NDArray[np.float32] | None,
) -> None:
    write_volume(output / "sharpened.mrc", found.sharpened.volume, voxel)
    write_volume(output / "mask.mrc", found.mask, voxel)
    if local_map is not None:
        write_volume(output / "local_resolution.mrc", local_map, voxel)
    _write_curves(output / "fsc.csv", found.curves)
    names = (str(half_names[0]), str(half_names[1]))
    write_postprocess_star(output / "postprocess.star", found, names, str(output / "mask.mrc"))
    draw_postprocess_sheet(output / "postprocess.png", f"{names[0]}, {names[1]}", found, local_map)


def _write_curves(path: Path, curves: FscCurves) -> None:
    length = curves.box_size * curves.voxel_size_angstrom
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        names = ("fsc_unmasked", "fsc_masked", "fsc_randomised", "fsc_corrected")
        out.writerow(["shell_index", "spatial_frequency_per_angstrom", *names])
        columns = (curves.unmasked, curves.masked, curves.randomised, curves.corrected)
        for shell, values in enumerate(zip(*columns, strict=True)):
            out.writerow([shell, f"{shell / length:.6f}", *(f"{value:.6f}" for value in values)])


def _table(found: HalfMapAssessment, symmetry: FoundSymmetry | None, local_map: NDArray[np.float32] | None) -> Table:
    curves, fit = found.curves, found.sharpened.fit
    table = Table(show_header=False)
    start = curves.box_size * curves.voxel_size_angstrom / curves.randomised_from
    rows = [
        ("resolution, corrected FSC 0.143", f"{curves.resolution_angstrom():.2f} A"),
        ("the same as RELION counts (whole shells)", f"{curves.shell_resolution_angstrom:.2f} A"),
        ("resolution, corrected FSC 0.5", f"{curves.resolution_angstrom(0.5):.2f} A"),
        ("resolution, unmasked FSC 0.143", f"{curves.unmasked_resolution_angstrom:.2f} A"),
        ("phases randomised from", f"{start:.2f} A"),
        ("mask, share of the box above 0.5", f"{float((found.mask > 0.5).mean()):.3f}"),
        (
            "B-factor fitted",
            "too few shells between 10 A and the resolution" if fit is None else f"{fit.b_factor_angstrom2:.1f} A^2",
        ),
        ("B-factor applied", f"{found.sharpened.b_factor_angstrom2:.1f} A^2"),
        ("conical FSC area ratio", "-" if found.conical_area_ratio is None else f"{found.conical_area_ratio:.2f}"),
    ]
    if symmetry is not None:
        what = "none found" if symmetry.group == "C1" else f"{symmetry.group}, imposed"
        rows.append(("symmetry", f"{what} (correlation {symmetry.correlation:.2f})"))
    if local_map is not None and (local_map > 0).any():
        low, middle, high = np.percentile(local_map[local_map > 0], [5, 50, 95])
        rows.append(("local resolution, 5, 50, 95 %", f"{low:.2f}, {middle:.2f}, {high:.2f} A"))
    for name, value in rows:
        table.add_row(name, value)
    return table
