"""Aligning one map to another: rotation, shift and hand, by search and then refinement in Fourier space.

Everything is done on transforms, so that the aligned map is interpolated once, from a padded grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.optimize
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from streamrecon.assess.band import PAD, Band
from streamrecon.compute.cpu import CpuBackend
from streamrecon.fourier.shells import fourier_shell_correlation, resolution_from_fsc, shell_index_rfft
from streamrecon.geometry.quadrature import pose_cells

_SEARCH_SHELLS = 10
_SEARCH_PSI = 24
_CANDIDATES = 8
_CANDIDATE_SHELLS = 12
_FINAL_SHELLS = 24
_BATCH = 64


@dataclass(frozen=True)
class Alignment:
    """How the second map was brought onto the first.

    Attributes
    ----------
    rotation : ndarray, (3, 3) float64
        first(x) = second(rotation @ x), after mirroring the second if ``mirrored``.
    shift_angstrom : ndarray, (3,) float64, (x, y, z)
        Then moved by this.
    mirrored : bool
        Whether the second map has the other hand (it was inverted through the origin).
    volume : ndarray, (box,)*3 float32
        The second map on the first's grid.
    correlation : float
        Of the two at the search's low resolution, -1 to 1.
    other_hand_correlation : float
        The best the other hand reached: the difference says how sure the hand is.
    """

    rotation: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]
    mirrored: bool
    volume: NDArray[np.float32]
    correlation: float
    other_hand_correlation: float


def _search_grid() -> NDArray[np.float64]:
    cells = pose_cells(4, _SEARCH_PSI, 0.0, 1.0)
    psi = np.arange(_SEARCH_PSI) * 2 * np.pi / _SEARCH_PSI
    turn = Rotation.from_euler("Z", psi[:, None]).as_matrix()
    return np.asarray(np.einsum("dij,pjk->dpik", cells.directions, turn).reshape(-1, 3, 3), np.float64)


def _coarse(
    band: Band, cube: NDArray[np.float32], mirrored: bool, report: Callable[[int], None]
) -> list[tuple[float, NDArray[np.float64], NDArray[np.float64]]]:
    """Search all rotations, shifts by FFT; return the best few as (correlation, rotation, shift in pixels)."""
    rotations = _search_grid()
    m = 2 * (band.shells + 2)
    x, y, z = (band.points[:, i].astype(int) for i in range(3))
    target = np.conj(band.values) * band.weight
    found = []
    for start in range(0, len(rotations), _BATCH):
        piece = rotations[start : start + _BATCH]
        values = band.sample(cube, piece) * band.weight
        if mirrored:
            values = np.conj(values)
        grid = np.zeros((len(piece), m, m, m // 2 + 1), np.complex64)
        grid[:, z, y, x] = np.conj(target * values)
        correlation = scipy.fft.irfftn(grid, s=(m, m, m), axes=(1, 2, 3), workers=-1).reshape(len(piece), -1)
        norm = np.linalg.norm(values, axis=1)
        peak = correlation.argmax(axis=1)
        for i, (rotation, p) in enumerate(zip(piece, peak, strict=True)):
            place = np.array(np.unravel_index(p, (m, m, m)))[::-1]  # (x, y, z)
            shift = np.where(place >= m // 2, place - m, place) * (band.box / m)
            found.append((float(correlation[i, p]) / float(norm[i]), rotation, shift.astype(np.float64)))
        report(len(piece))
    found.sort(key=lambda item: -item[0])
    return found[:_CANDIDATES]


def _refine(
    band: Band, cube: NDArray[np.float32], mirrored: bool, rotation: NDArray[np.float64], shift: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Maximise the whitened correlation over rotation and shift."""
    target = band.values * band.weight
    target_norm = float(np.linalg.norm(target))
    points = band.points.astype(np.float64)
    # one unit of the optimiser: half a resolution element in shift and at the box's edge in rotation
    turn_unit, shift_unit = 1.0 / band.shells, 0.25 * band.box / band.shells

    def unpack(p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        turned = Rotation.from_rotvec(p[:3] * turn_unit).as_matrix() @ rotation
        return turned, shift + p[3:] * shift_unit

    def loss(p: NDArray[np.float64]) -> float:
        turned, moved = unpack(p)
        values = band.sample(cube, turned[None])[0]
        if mirrored:
            values = np.conj(values)
        values = values * band.weight * np.exp(-2j * np.pi * (points @ moved) / band.box)
        norm = float(np.linalg.norm(values)) * target_norm
        return -float(np.vdot(target, values).real) / max(norm, 1e-30)

    best = scipy.optimize.minimize(loss, np.zeros(6), method="Powell", options={"xtol": 1e-3, "ftol": 1e-6})
    turned, moved = unpack(best.x)
    return -float(best.fun), turned, moved


def align_volumes(
    reference: NDArray[np.float32],
    moving: NDArray[np.float32],
    voxel_size_angstrom: float,
    report: Callable[[int], None] = lambda _: None,
) -> Alignment:
    """Bring one map onto another, trying both hands.

    Parameters
    ----------
    reference, moving : ndarray, (box,)*3 float32
    voxel_size_angstrom : float
    report : callable
        Called with the number of rotations just searched (of `search_size` in all).
    """
    box = len(reference)
    limit = box // 2 - 2
    backend = CpuBackend()
    cube = backend.cube(np.asarray(moving, np.float32), PAD, PAD * limit + 2)
    band = Band(reference, min(_SEARCH_SHELLS, limit))
    finer = Band(reference, min(_CANDIDATE_SHELLS, limit))
    best: dict[bool, tuple[float, NDArray[np.float64], NDArray[np.float64]]] = {}
    for mirrored in (False, True):
        candidates = _coarse(band, cube, mirrored, report)
        refined = [_refine(finer, cube, mirrored, rotation, shift) for _, rotation, shift in candidates]
        best[mirrored] = max(refined, key=lambda item: item[0])
    mirrored = best[True][0] > best[False][0]
    correlation, rotation, shift = best[mirrored]
    _, rotation, shift = _refine(Band(reference, min(_FINAL_SHELLS, limit)), cube, mirrored, rotation, shift)
    return Alignment(
        rotation=rotation,
        shift_angstrom=shift * voxel_size_angstrom,
        mirrored=mirrored,
        volume=_resample(cube, box, limit, mirrored, rotation, shift),
        correlation=correlation,
        other_hand_correlation=best[not mirrored][0],
    )


def map_agreement(reference: NDArray[np.float32], moving: NDArray[np.float32], voxel_size_angstrom: float) -> float:
    """Return how alike two maps of different frames and hands are: their correlation up to shell 12, every shell alike.

    1: the same map; about 0: nothing in common.
    """
    return align_volumes(reference, moving, voxel_size_angstrom).correlation


def search_size() -> int:
    """Return how many rotations `align_volumes` searches in all: both hands."""
    return 2 * len(_search_grid())


def _resample(
    cube: NDArray[np.float32],
    box: int,
    limit: int,
    mirrored: bool,
    rotation: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> NDArray[np.float32]:
    band = Band(np.zeros((box,) * 3, np.float32), limit)
    values = band.sample(cube, rotation[None])[0]
    if mirrored:
        values = np.conj(values)
    values = values * np.exp(-2j * np.pi * (band.points.astype(np.float64) @ shift) / box)
    transform = np.zeros((box, box, box // 2 + 1), np.complex128)
    x, y, z = (band.points[:, i].astype(int) for i in range(3))
    transform[z, y, x] = values
    return np.asarray(scipy.fft.fftshift(scipy.fft.irfftn(transform, s=(box,) * 3)), np.float32)


@dataclass(frozen=True)
class FscCurve:
    """A Fourier shell correlation and where it crosses the usual thresholds."""

    fsc: NDArray[np.float32]
    spatial_frequency_per_angstrom: NDArray[np.float64]
    resolution_0143_angstrom: float
    resolution_05_angstrom: float


def fsc_between(
    volume_1: NDArray[np.floating],
    volume_2: NDArray[np.floating],
    voxel_size_angstrom: float,
    mask: NDArray[np.floating] | None = None,
) -> FscCurve:
    """Correlate two maps shell by shell, under a real-space mask if one is given."""
    box = len(volume_1)
    n_shells = box // 2 + 1
    transforms = [scipy.fft.rfftn(v if mask is None else v * mask) for v in (volume_1, volume_2)]
    fsc = fourier_shell_correlation(transforms[0], transforms[1], shell_index_rfft(box), n_shells)
    return FscCurve(
        fsc=fsc,
        spatial_frequency_per_angstrom=np.arange(n_shells) / (box * voxel_size_angstrom),
        resolution_0143_angstrom=resolution_from_fsc(fsc, box, voxel_size_angstrom, 0.143),
        resolution_05_angstrom=resolution_from_fsc(fsc, box, voxel_size_angstrom, 0.5),
    )
