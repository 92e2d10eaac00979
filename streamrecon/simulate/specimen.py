"""The specimen: a density map to take pictures of, from an atomic model or from a map file.

Protein is positive, the centre of mass lies on voxel (box/2, box/2, box/2), and nothing beyond the target's
Nyquist frequency is left in it.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import IngestError, ManifestMismatch, UnsupportedFormat
from streamrecon.io.mrc import read_volume

_BUNDLED_MODEL = "1e79.pdb.gz"
# Atoms are about 1 angstrom wide: a coarser grid would fold their high frequencies back into the map.
_MODEL_GRID_ANGSTROM = 1.0


def density_from_model(
    path: Path | str | None, box_size: int, pixel_size_angstrom: float, *, b_factor: float = 60.0
) -> NDArray[np.float32]:
    """Compute the electrostatic potential of an atomic model.

    Parameters
    ----------
    path : Path, str or None
        PDB or mmCIF, gzipped or not. None: the bundled F1-ATPase, PDB 1E79.
    box_size : int, pixels
    pixel_size_angstrom : float
    b_factor : float, angstrom^2
        Every atom's B-factor; the model's own values differ too much between entries to compare maps.

    Returns
    -------
    ndarray, (box, box, box) float32
        Arbitrary units. Waters are left out, hydrogens too.

    Raises
    ------
    IngestError
        The file is gone or cannot be parsed.
    ManifestMismatch
        The model does not fit the box.
    """
    model = _read_model(path)
    positions = np.array([cra.atom.pos.tolist() for cra in model.all()])
    if not len(positions):
        raise IngestError(f"{path}: expected atoms, found none besides water and hydrogen; give another model")
    center = np.array(model.calculate_center_of_mass().tolist())
    side = box_size * pixel_size_angstrom
    reach = float(np.linalg.norm(positions - center, axis=1).max())
    if 2 * reach > side:
        raise ManifestMismatch(
            f"{path or _BUNDLED_MODEL}: expected a model that fits a box of {side:.0f} angstrom "
            f"({box_size} pixels of "
            f"{pixel_size_angstrom:g}), found one {2 * reach:.0f} across; make the box or the pixels larger"
        )
    n_fine = box_size * int(np.ceil(pixel_size_angstrom / _MODEL_GRID_ANGSTROM))
    for cra in model.all():
        # the box centre is grid point n/2, not the middle between two points
        cra.atom.pos += gemmi.Position(*(side / 2 - center))
        cra.atom.b_iso = b_factor
        cra.atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    calculator = gemmi.DensityCalculatorE()
    calculator.grid.set_unit_cell(gemmi.UnitCell(side, side, side, 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P 1")
    calculator.grid.set_size(n_fine, n_fine, n_fine)
    calculator.add_model_density_to_grid(model)
    fine = np.array(calculator.grid, copy=False).transpose(2, 1, 0)  # (x, y, z) -> (z, y, x)
    fine_voxel = side / n_fine
    return resample(fine, fine_voxel, np.full(3, side / 2), box_size, pixel_size_angstrom)


def density_from_map(
    path: Path | str, box_size: int, pixel_size_angstrom: float, *, center: bool = True
) -> NDArray[np.float32]:
    """Read a map and bring it to a box and voxel size by Fourier interpolation.

    Parameters
    ----------
    path : Path or str
        MRC, protein positive.
    box_size : int, pixels
    pixel_size_angstrom : float
    center : bool
        Move the centre of mass (of what stands three standard deviations above the mean) to the box centre;
        otherwise the map's own centre, voxel n // 2, goes there.

    Returns
    -------
    ndarray, (box, box, box) float32
        Zero where the box reaches beyond the map.

    Raises
    ------
    UnsupportedFormat
        The map holds NaN or is constant.
    IngestError
        As in `read_volume`.
    """
    volume, voxel_size = read_volume(path)
    if not np.isfinite(volume).all() or np.ptp(volume) == 0:
        raise UnsupportedFormat(f"{path}: expected a map, found NaN, infinite or constant voxels; give another map")
    middle = np.array(volume.shape) // 2 * voxel_size
    if center:
        weight = np.clip(volume - (volume.mean() + 3 * volume.std()), 0, None)
        if weight.any():
            axes = [np.arange(n) * voxel_size for n in volume.shape]
            totals = [weight.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
            middle = np.array([np.average(x, weights=t) for x, t in zip(axes, totals, strict=True)])
    return resample(volume, voxel_size, middle, box_size, pixel_size_angstrom)


def resample(
    volume: NDArray[np.floating],
    voxel_size_angstrom: float,
    middle_angstrom: NDArray[np.floating],
    box_size: int,
    pixel_size_angstrom: float,
) -> NDArray[np.float32]:
    """Evaluate a map's trigonometric interpolation on another grid.

    Parameters
    ----------
    volume : ndarray, (z, y, x)
    voxel_size_angstrom : float
    middle_angstrom : ndarray, (3,), angstrom
        The point (z, y, x), counted from voxel 0, that goes to voxel box/2 of the new grid.
    box_size : int, pixels
    pixel_size_angstrom : float

    Returns
    -------
    ndarray, (box, box, box) float32
        Low-passed to the coarser grid's Nyquist frequency along each axis; zero outside the old map.

    Notes
    -----
    Along each axis v(x) = 1/n sum_j v_j sum_{|k| < K} exp(2 pi i k (x - j d) / (n d)): one real matrix an axis.
    """
    out = np.asarray(volume, np.float32)
    for axis in range(3):
        n = out.shape[axis]
        where = (np.arange(box_size) - box_size // 2) * pixel_size_angstrom + middle_angstrom[axis]
        limit = min(n / 2, n * voxel_size_angstrom / (2 * pixel_size_angstrom))
        k = np.arange(1, int(np.ceil(limit - 1e-6)))
        steps = where[:, None] / voxel_size_angstrom - np.arange(n)  # (box, n), in old voxels
        matrix = np.full((box_size, n), 1.0 / n)
        for frequency in k:
            matrix += 2.0 / n * np.cos(2 * np.pi / n * frequency * steps)
        edge = voxel_size_angstrom / 2
        matrix[(where < -edge) | (where > n * voxel_size_angstrom - edge)] = 0
        out = np.moveaxis(np.tensordot(matrix.astype(np.float32), out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out, np.float32)


def _read_model(path: Path | str | None) -> gemmi.Model:
    try:
        if path is None:
            with as_file(files("streamrecon.simulate") / _BUNDLED_MODEL) as bundled:
                structure = gemmi.read_structure(str(bundled))
        else:
            structure = gemmi.read_structure(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise IngestError(f"{path}: expected a PDB or mmCIF file, found {error}; give another model") from error
    if len(structure) == 0:
        raise IngestError(f"{path}: expected a PDB or mmCIF file, found no model in it; give another one")
    structure.setup_entities()
    structure.remove_waters()
    structure.remove_hydrogens()
    return structure[0]
