"""Whether a symmetry may be imposed: found at low resolution, and held by the halves against each other at the finest.

At low resolution a pseudo-symmetric particle looks symmetric. Half a turned by an operator is therefore correlated with
half b, shell by shell up to where the halves agree: if the particle has the symmetry, a copy is as like the other half
as the half itself is, and noise, which differs between the halves, plays no part in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.band import PAD, Band
from streamrecon.assess.fsc_curves import fsc_curves
from streamrecon.assess.half_maps import make_mask
from streamrecon.assess.symmetry import Placement, SelfCorrelation, impose_symmetry
from streamrecon.assess.symmetry_search import ACCEPTED, find_symmetry, locate_symmetry
from streamrecon.compute.cpu import CpuBackend
from streamrecon.errors import NumericalError
from streamrecon.geometry.orientation import Orientation
from streamrecon.geometry.symmetry import symmetry_operators

# Of the agreement of the halves themselves, under the worst operator. Simulated F1-ATPase, whose three pairs of chains
# have one fold, holds 0.63 at 14 A and less at finer detail; beta-galactosidase 0.96 and more.
HELD_ASKED, HELD_AUTO = 0.7, 0.85
_LEAST_FSC = 0.5
_PLACEMENT_SHELLS = 20
# unasked, a group is imposed only once the map tells domains apart
_AUTO_ANGSTROM = 15.0
_OPERATORS_TRIED = 12


def trusted_symmetry(
    half_a: NDArray[np.floating],
    half_b: NDArray[np.floating],
    voxel_size_angstrom: float,
    asked: str,
    *,
    at_least: float = 0.0,
) -> tuple[Orientation | None, str]:
    """Find the symmetry of two half maps that were made without any, and say whether to impose it.

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
    voxel_size_angstrom : float
    asked : str
        A group, or "auto": whatever the map shows, from 15 A on.
    at_least : float
        What copies must hold of what the halves share, where that is more than usual.

    Returns
    -------
    The orientation, its centre in voxels, "C1" where nothing may be imposed, None while the map is too coarse for the
    question; and the reason, for people.
    """
    box = len(half_a)
    try:
        mask = make_mask("auto", half_a, half_b, voxel_size_angstrom)
    except NumericalError:
        mask = make_mask("sphere", half_a, half_b, voxel_size_angstrom)
    curves = fsc_curves(half_a, half_b, voxel_size_angstrom, mask)
    end = _last_shell(curves.corrected)
    reached = f"{box * voxel_size_angstrom / max(end, 1):.1f} A"
    if asked == "auto" and box * voxel_size_angstrom > _AUTO_ANGSTROM * end:
        return None, f"the map reaches {reached}: too coarse to tell symmetry from likeness"
    mean = (half_a + half_b) / 2 * mask
    found = find_symmetry(mean, curves.corrected) if asked == "auto" else locate_symmetry(mean, asked, curves.corrected)
    group = found.group
    if group == "C1" or found.correlation < ACCEPTED:
        nearest = found.runner_up or group
        return Orientation(), f"no axes at {reached}: the nearest, {nearest}, agree by {found.correlation:.2f}"
    placement = finely_placed(mean, group, found.placement, min(end, _PLACEMENT_SHELLS), curves.corrected)
    held = held_between_halves(half_a * mask, half_b * mask, group, placement, end)
    if held < max(at_least, HELD_AUTO if asked == "auto" else HELD_ASKED):
        return Orientation(), f"{group} at low resolution only: {held:.2f} of the signal at {reached}"
    reason = f"{group}: its copies hold {held:.2f} of what the halves share at {reached}"
    return Orientation(group, placement.rotation, placement.center), reason


def finely_placed(
    volume: NDArray[np.floating], group: str, start: Placement, shells: int, fsc: NDArray[np.floating]
) -> Placement:
    """Return a placement refined on more shells than it was found on."""
    operators = symmetry_operators(group)[1:]
    some = operators[:: max(1, len(operators) // 6)]
    return SelfCorrelation(volume, shells, fsc).refined(some, start)


def held_between_halves(
    half_a: NDArray[np.floating], half_b: NDArray[np.floating], group: str, placement: Placement, end: int
) -> float:
    """Return what the worst operator's copy of one half shares with the other half, relative to the half itself.

    Parameters
    ----------
    half_a, half_b : ndarray, (box,)*3
        Under one soft mask.
    end : int
        Last shell in which the halves agree; the finer half of the shells up to there counts.
    """
    bands = [Band(np.asarray(_centered(h, placement), np.float32), end) for h in (half_a, half_b)]
    cube = CpuBackend(1).cube(np.asarray(_centered(half_a, placement), np.float32), PAD, PAD * end + 2)
    shell = bands[0].shell
    fine = shell > end // 2
    operators = symmetry_operators(group)[1:]
    operators = operators[:: max(1, len(operators) // _OPERATORS_TRIED)]

    def agreement(values: NDArray[np.complexfloating]) -> float:
        other = bands[1].values
        cross = np.bincount(shell[fine], (np.conj(other) * values).real[fine])
        norms = [np.bincount(shell[fine], np.abs(v[fine]) ** 2) for v in (values, other)]
        used = norms[0] > 0
        return float(np.mean(cross[used] / np.sqrt(norms[0][used] * norms[1][used])))

    itself = agreement(bands[0].sample(cube, np.eye(3)[None])[0])
    copies = [agreement(bands[0].sample(cube, operator[None])[0]) for operator in operators]
    return min(copies) / itself if itself > 0 else 0.0


def _centered(volume: NDArray[np.floating], placement: Placement) -> NDArray[np.float32]:
    """Return a map in the group's standard orientation, nothing imposed."""
    return impose_symmetry(volume, "C1", placement)


def _last_shell(fsc: NDArray[np.floating]) -> int:
    low = np.flatnonzero(np.asarray(fsc)[1:] < _LEAST_FSC)
    return int(low[0]) if len(low) else len(fsc) - 1
