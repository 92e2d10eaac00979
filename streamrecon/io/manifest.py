"""From a manifest (STAR or .cs) to particles whose stacks are absolute paths in the watched folder.

Also: does a manifest fit its stacks, and do two manifests fit each other?
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import ManifestMismatch, StackIncomplete, UnsupportedFormat
from streamrecon.io.cs import read_cs
from streamrecon.io.mrc import StackProbe, read_sections
from streamrecon.io.star import read_star
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable

# Upstream programs round pixel sizes differently; one part in a thousand is no visible scale error.
_PIXEL_SIZE_TOLERANCE = 1e-3


def read_manifest(path: Path | str, root: Path | str) -> ParticleTable:
    """Read a manifest and resolve the stacks it names.

    Parameters
    ----------
    path : Path or str
        ``*.star`` or ``*.cs``, inside ``root``.
    root : Path or str
        The watched folder.

    Returns
    -------
    ParticleTable
        ``stack_names`` are absolute. A stack that is nowhere yet keeps its first candidate, so that it can be
        waited for.

    Raises
    ------
    ManifestMismatch
        A stack name leads out of ``root``; and as in `read_star` and `read_cs`.
    UnsupportedFormat
        The suffix is neither .star nor .cs.

    Notes
    -----
    RELION's names are relative to its project folder, cryoSPARC's too, and which folder that is nobody says.
    So the manifest's folder and then each folder above it are tried; the bare file name beside the manifest
    is the last resort. Only the names are held against ``root``: data folders are often symbolic links.
    """
    path, root = _absolute(path), _absolute(root)
    if path.suffix == ".star":
        table = read_star(path)
    elif path.suffix == ".cs":
        table = read_cs(path)
    else:
        found = "a folder" if path.is_dir() else path.suffix or "no suffix"
        raise UnsupportedFormat(
            f"{path}: expected a .star or .cs file, found {found}; give the file that lists particles"
        )
    return replace(table, stack_names=tuple(str(_resolve(name, path, root)) for name in table.stack_names))


def identity_of(stack_path: Path | str, root: Path | str, index: int) -> str:
    """Return a particle's stable name, ``000001@relative/path``; ``index`` counts from zero."""
    relative = Path(os.path.relpath(_absolute(stack_path), _absolute(root)))
    return f"{index + 1:06d}@{relative.as_posix()}"


def read_images(table: ParticleTable) -> NDArray[np.float32]:
    """Read the images of a table whose stacks are resolved, each stack in one go.

    Returns
    -------
    ndarray, (n, box, box) float32
        In the table's order.

    Raises
    ------
    ManifestMismatch
        Stacks of different box sizes.
    IngestError
        As in `read_sections`.
    """
    images: NDArray[np.float32] | None = None
    for number in np.unique(table.stack_number):
        rows = np.flatnonzero(table.stack_number == number)
        part = read_sections(table.stack_names[number], table.stack_index[rows])
        if images is None:
            images = np.empty((len(table), *part.shape[1:]), np.float32)
            first = table.stack_names[number]
        if part.shape[1:] != images.shape[1:]:
            raise ManifestMismatch(
                f"{table.stack_names[number]}: expected images of {images.shape[1:]} pixels as in {first}, "
                "found "
                f"{part.shape[1:]}; extract all particles with one box size"
            )
        images[rows] = part
    return np.empty((0, 0, 0), np.float32) if images is None else images


def check_stack(table: ParticleTable, manifest: Path | str, probe: StackProbe) -> None:
    """Raise unless a stack holds what the rows of a table ask of it.

    Raises
    ------
    StackIncomplete
        The stack has fewer sections than the rows need: RELION counts images as it appends them.
    ManifestMismatch
        The images are not square, odd-sized, or of another box size than the manifest says.
    """
    rows = np.flatnonzero(table.stack_number == table.stack_names.index(str(probe.path)))
    needed = int(table.stack_index[rows].max()) + 1
    if probe.nx != probe.ny or probe.nx % 2:
        raise ManifestMismatch(
            f"{probe.path}: expected square images with an even number of pixels, found {probe.nx} x "
            f"{probe.ny}; "
            "extract the particles anew"
        )
    boxes = {table.optics_groups[g].box_size for g in np.unique(table.optics_group_index[rows])} - {
        0,
        probe.nx,
    }
    if boxes:
        raise ManifestMismatch(
            f"{manifest}: expected images of {min(boxes)} pixels (as its optics table says), found "
            f"{probe.nx} in "
            f"{probe.path}; correct the one or the other"
        )
    if needed > probe.nz:
        raise StackIncomplete(
            f"{probe.path}: expected at least {needed} images for {manifest}, found {probe.nz}; it is read "
            "once it has "
            "grown"
        )


def fill_box_size(table: ParticleTable, box_size: int) -> ParticleTable:
    """Return the table with ``box_size`` in every group that did not know it (RELION 3.0 files do not)."""
    groups = tuple(replace(g, box_size=g.box_size or box_size) for g in table.optics_groups)
    return replace(table, optics_groups=groups)


def check_same_sampling(path_1: Path | str, group_1: OpticsGroup, path_2: Path | str, group_2: OpticsGroup) -> None:
    """Raise ManifestMismatch unless two optics groups have the same pixel size and box (0: not known yet)."""
    size_1, size_2 = group_1.pixel_size_angstrom, group_2.pixel_size_angstrom
    if abs(size_1 - size_2) > _PIXEL_SIZE_TOLERANCE * size_1:
        raise ManifestMismatch(
            f"{path_2}: expected {size_1:g} angstrom a pixel as in {path_1} ({group_1.name}), found "
            f"{size_2:g} "
            f"({group_2.name}); bring all particles to one pixel size"
        )
    if group_1.box_size and group_2.box_size and group_1.box_size != group_2.box_size:
        raise ManifestMismatch(
            f"{path_2}: expected a box of {group_1.box_size} pixels as in {path_1} ({group_1.name}), found "
            f"{group_2.box_size} ({group_2.name}); extract all particles with one box size"
        )


def check_consistent(path_1: Path | str, table_1: ParticleTable, path_2: Path | str, table_2: ParticleTable) -> None:
    """Raise ManifestMismatch unless all particles of two tables have one pixel size and box.

    Only groups that particles belong to count. Give the same table twice to check it in itself.
    """
    used_1, used_2 = _used_groups(table_1), _used_groups(table_2)
    for group in used_2 if used_1 else ():
        check_same_sampling(path_1, used_1[0], path_2, group)


def _used_groups(table: ParticleTable) -> list[OpticsGroup]:
    return [table.optics_groups[g] for g in np.unique(table.optics_group_index)]


def _absolute(path: Path | str) -> Path:
    # not resolve(): a symbolic link's own name is what the manifests mean
    return Path(os.path.abspath(path))  # noqa: PTH100


def _resolve(name: str, manifest: Path, root: Path) -> Path:
    candidates = [path for path in _candidates(name, manifest) if path.is_relative_to(root)]
    beside = manifest.parent / Path(name).name
    for path in (*candidates, beside):
        if _is_file(path):
            return path
    if not candidates:
        raise ManifestMismatch(
            f"{manifest}: expected stacks inside {root}, found {name!r} which leads out of it; set "
            "watch.root to a "
            "folder that holds both, or link the stacks into it"
        )
    return candidates[0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # a name longer than any file system takes, a folder that may not be looked into, a server that is away
        return False


def _candidates(name: str, manifest: Path) -> Iterator[Path]:
    """Yield what a name may mean, nearest first: below the manifest's folder and each one above."""
    if Path(name).is_absolute():
        yield _absolute(name)
        return
    for folder in manifest.parents:
        yield _absolute(folder / name)
