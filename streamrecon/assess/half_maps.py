"""Everything that two half maps tell together: mask, curves, sharpened map, directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.conical import area_ratio, conical_fsc
from streamrecon.assess.fsc_curves import RELION_RANDOMISE_BELOW, FscCurves, fsc_curves
from streamrecon.assess.masks import automatic_mask, spherical_mask
from streamrecon.assess.sharpening import SharpenedMap, sharpened_map
from streamrecon.errors import NumericalError

SPHERE_OF_BOX = 0.8
_EDGE_OF_BOX = 0.08


@dataclass(frozen=True)
class HalfMapAssessment:
    """What `assess_half_maps` found.

    Attributes
    ----------
    mask : ndarray, (box,)*3 float32
    curves : FscCurves
    sharpened : SharpenedMap
    conical_area_ratio : float or None
    """

    mask: NDArray[np.float32]
    curves: FscCurves
    sharpened: SharpenedMap
    conical_area_ratio: float | None


def make_mask(
    kind: str,
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    voxel_size_angstrom: float,
    *,
    diameter_angstrom: float = 0.0,
) -> NDArray[np.float32]:
    """Return the automatic mask ("auto") or a soft sphere ("sphere").

    Parameters
    ----------
    diameter_angstrom : float, angstrom
        Of the sphere; 0: 0.8 of the box.

    Raises
    ------
    NumericalError
        As `automatic_mask`.
    ValueError
        Another kind.
    """
    if kind == "auto":
        return automatic_mask(half_a, half_b, voxel_size_angstrom)
    if kind != "sphere":
        raise ValueError(f"expected 'auto' or 'sphere', found {kind!r}")
    box = len(half_a)
    radius = (diameter_angstrom / voxel_size_angstrom or SPHERE_OF_BOX * box) / 2
    edge = max(3.0, _EDGE_OF_BOX * box)
    return spherical_mask(box, min(radius, box / 2 - edge), edge)


def assess_half_maps(
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    voxel_size_angstrom: float,
    mask: NDArray[np.float32],
    *,
    particles: int | None = None,
    shell_gain: NDArray[np.floating] | None = None,
    b_factor_angstrom2: float | None = None,
    randomise_below: float = RELION_RANDOMISE_BELOW,
    seed: int = 0,
) -> HalfMapAssessment:
    """Assess two half maps under a mask.

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
    voxel_size_angstrom : float
    mask : ndarray, (box,)*3
    particles : int, optional
        In both together; see `area_ratio`.
    shell_gain, b_factor_angstrom2
        See `sharpened_map`.
    randomise_below, seed
        See `fsc_curves`.

    Raises
    ------
    NumericalError
        The maps hold NaN or nothing.
    """
    for name, half in (("first", half_a), ("second", half_b)):
        if not np.isfinite(half).all() or np.ptp(half) == 0:
            raise NumericalError(f"expected a density in the {name} half map, found NaN, infinite or constant voxels")
    curves = fsc_curves(half_a, half_b, voxel_size_angstrom, mask, randomise_below=randomise_below, seed=seed)
    sharpened = sharpened_map(
        half_a,
        half_b,
        voxel_size_angstrom,
        curves.corrected,
        curves.shell_resolution_angstrom,
        b_factor_angstrom2=b_factor_angstrom2,
        shell_gain=shell_gain,
    )
    # cones far beyond the resolution hold noise only, and their number grows as the cube
    end = np.flatnonzero(curves.masked > 0.05)
    conical = conical_fsc(half_a, half_b, mask, most_shells=int(end[-1]) + 2 if len(end) else 2)
    return HalfMapAssessment(mask, curves, sharpened, area_ratio(conical, particles))
