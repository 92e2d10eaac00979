"""Which point group a map has that was made without one: axes by global search, then groups from pairs of axes.

First every direction is tried as an axis of 2, 3, 5, 7, 11 and 13 folds. Two axes fix a group's orientation, so each
group is proposed from pairs at its own angle, placed, refined as a whole and judged by its worst operator.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.directions import pixel_directions
from streamrecon.assess.symmetry import Placement, SelfCorrelation
from streamrecon.geometry.symmetry import about_axis, symmetry_operators

_PRIMES = (2, 3, 5, 7, 11, 13)
_MOST_FOLDS = 13
_AXES_N_SIDE = 16  # 3.7 degrees apart
_SEARCH_SHELLS = 8
_FINE_SHELLS = 12
_PEAK_DISTANCE_DEGREES = 12.0
_PAIR_TOLERANCE_DEGREES = 6.0
_PEAKS = 20
_PAIRS = 4
_REFINED_AXES = 2
_PEAK_LEVEL = 0.35
# judged by the worst operator, relative to the halves' own agreement
ACCEPTED = 0.7
# turned by half a step, a map with n folds and no more must be clearly less like itself
_CONTRAST = 0.15
_BATCH = 64
_GOLDEN = (1 + np.sqrt(5)) / 2
_NOWHERE = Placement(np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class FoundSymmetry:
    """The largest group that a map has.

    Attributes
    ----------
    group : str
        "C1" if there is none.
    placement : Placement
    correlation : float
        Of the map with itself under the group's worst operator, relative to the agreement of its halves; for "C1"
        that of the best group that was not good enough.
    runner_up : str
        With "C1": that group.
    """

    group: str
    placement: Placement
    correlation: float
    runner_up: str = ""


def find_symmetry(volume: NDArray[np.floating], fsc: NDArray[np.floating] | None = None) -> FoundSymmetry:
    """Search a map for the largest point group it has.

    Parameters
    ----------
    volume : ndarray, (box,)*3
        Protein positive, solvent masked or quiet.
    fsc : ndarray, optional
        Between its halves; bounds the band (to FSC 0.5 and to shell 12) and sets what counts as alike.

    Notes
    -----
    At low resolution different chains of one fold look alike: a pseudo-symmetric particle shows its symmetry until
    the map tells the chains apart. So what is found is told, never imposed by itself.
    """
    band = len(volume) // 2 - 2
    if fsc is not None:
        low = np.flatnonzero(np.asarray(fsc)[1:] < 0.5)
        band = min(band, int(low[0]) if len(low) else band)
    search = _Search.of(volume, fsc)
    best = FoundSymmetry("C1", _NOWHERE, 0.0)
    if search is None:
        return best
    for group, rotation in search.proposals():
        size = len(symmetry_operators(group))
        if best.group != "C1" and size <= len(symmetry_operators(best.group)):
            continue
        found = _judged(search.fine, group, Placement(rotation, search.center))
        if found.correlation >= ACCEPTED and _is_periodic(search.fine, found):
            best = found
        elif best.group == "C1" and found.correlation > best.correlation:
            best = FoundSymmetry("C1", _NOWHERE, found.correlation, group)
    return best


def locate_symmetry(volume: NDArray[np.floating], group: str, fsc: NDArray[np.floating] | None = None) -> FoundSymmetry:
    """Return where a known group's axes lie best, and how well they do; see `find_symmetry`."""
    search = _Search.of(volume, fsc)
    if search is None:
        return FoundSymmetry(group, _NOWHERE, 0.0)
    # as RELION would have it, and wherever axes are
    starts = [np.eye(3), *(rotation for name, rotation in search.proposals() if name == group)]
    judged = [_judged(search.fine, group, Placement(rotation, search.center)) for rotation in starts]
    return max(judged, key=lambda found: found.correlation)


@dataclass(frozen=True)
class _Search:
    """A map made ready, and the axes found in it."""

    fine: SelfCorrelation
    center: NDArray[np.float64]
    axes: dict[int, list[_Axis]]

    @classmethod
    def of(cls, volume: NDArray[np.floating], fsc: NDArray[np.floating] | None) -> _Search | None:
        """Return None where the map holds too few shells to tell."""
        band = len(volume) // 2 - 2
        if fsc is not None:
            low = np.flatnonzero(np.asarray(fsc)[1:] < 0.5)
            band = min(band, int(low[0]) if len(low) else band)
        if band < _SEARCH_SHELLS - 2:
            return None
        center = _center(volume)
        coarse = SelfCorrelation(volume, min(_SEARCH_SHELLS, band), fsc)
        return cls(SelfCorrelation(volume, min(_FINE_SHELLS, band), fsc), center, _axes(coarse, center))

    def proposals(self) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Yield groups and orientations that pairs of axes suggest, the largest kinds first."""
        yield from _polyhedral(self.axes, "I", (5, 2), np.rad2deg(np.arctan2(1.0, _GOLDEN)))
        yield from _polyhedral(self.axes, "O", (3, 2), np.rad2deg(np.arccos(1 / np.sqrt(3))))
        yield from _polyhedral(self.axes, "T", (3, 2), np.rad2deg(np.arccos(1 / np.sqrt(3))))
        yield from _axial(self.fine, self.axes, self.center)


def _center(volume: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the centre of mass of what stands out, (x, y, z), voxels from box / 2: every axis runs through it."""
    box = len(volume)
    weight = np.clip(volume - (np.median(volume) + 1.5 * np.std(volume)), 0, None)
    if not weight.any():
        return np.zeros(3)
    at = np.arange(box) - box // 2
    sums = [weight.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in (2, 1, 0)]
    return np.array([float(np.dot(at, s) / s.sum()) for s in sums])


@dataclass(frozen=True)
class _Axis:
    direction: NDArray[np.float64]
    correlation: float


def _axes(probe: SelfCorrelation, center: NDArray[np.float64]) -> dict[int, list[_Axis]]:
    """Return the best axes of each prime order, no two of an order close to each other."""
    directions = pixel_directions(_AXES_N_SIDE)
    directions = directions[directions[:, 2] >= -1e-9]
    found: dict[int, list[_Axis]] = {}
    for order in _PRIMES:
        turns = np.stack([about_axis(u, 2 * np.pi / order) for u in directions])
        scores = np.concatenate([probe.relative(turns[i : i + _BATCH], center) for i in range(0, len(turns), _BATCH)])
        kept: list[_Axis] = []
        for i in np.argsort(-scores)[:400]:
            if scores[i] < _PEAK_LEVEL or len(kept) == _PEAKS:
                break
            u = directions[i]
            if all(abs(u @ other.direction) < np.cos(np.deg2rad(_PEAK_DISTANCE_DEGREES)) for other in kept):
                kept.append(_Axis(u, float(scores[i])))
        found[order] = kept
    return found


def _placed(
    u: NDArray[np.float64], v: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the rotation that takes unit vector a to u, and b into the half plane of u and v."""

    def frame(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
        across = np.cross(first, second)
        across /= np.linalg.norm(across)
        return np.stack([first, across, np.cross(first, across)], axis=1)

    return np.asarray(frame(u, v) @ frame(a, b).T, np.float64)


def _pairs(
    first: list[_Axis], second: list[_Axis], angle_degrees: float
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return pairs of axes at an angle (an axis has no sense, so nor does the angle), the best first."""
    out = []
    for p, q in itertools.product(first, second):
        for sign in (1.0, -1.0):
            between = np.rad2deg(np.arccos(np.clip(sign * p.direction @ q.direction, -1, 1)))
            if abs(between - angle_degrees) <= _PAIR_TOLERANCE_DEGREES:
                out.append((p.correlation + q.correlation, p.direction, sign * q.direction))
                if angle_degrees == 90.0:
                    break
    out.sort(key=lambda item: -item[0])
    return [(u, v) for _, u, v in out[:_PAIRS]]


def _polyhedral(
    axes: dict[int, list[_Axis]], group: str, orders: tuple[int, int], angle_degrees: float
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    a, b = _STANDARD_PAIR[group]
    for u, v in _pairs(axes[orders[0]], axes[orders[1]], angle_degrees):
        yield group, _placed(u, v, a, b)


# in RELION's orientation: an axis of the first order of each pair in `find_symmetry`, and one of the second nearest
# to it
_STANDARD_PAIR = {
    "I": (np.array([1.0, 0.0, _GOLDEN]) / np.hypot(1.0, _GOLDEN), np.array([0, 0, 1.0])),
    "O": (np.array([1.0, 1.0, 1.0]) / np.sqrt(3), np.array([0, 0, 1.0])),
    "T": (np.array([0, 0, 1.0]), np.array([0, np.sqrt(2 / 3), np.sqrt(1 / 3)])),
}


def _axial(
    probe: SelfCorrelation, axes: dict[int, list[_Axis]], center: NDArray[np.float64]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Propose Dn and Cn, most folds first."""
    x, z = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
    by_folds: dict[int, list[_Axis]] = {}
    for prime, found in axes.items():
        for axis in found[:_REFINED_AXES]:
            u = probe.refined(_spins(prime), Placement(_any_frame(axis.direction), center)).rotation[:, 2]
            for folds in range(2, _MOST_FOLDS + 1):
                if folds % prime == 0:
                    score = float(probe.relative(about_axis(u, 2 * np.pi / folds)[None], center)[0])
                    if score >= _PEAK_LEVEL:
                        by_folds.setdefault(folds, []).append(_Axis(u, score))
    for folds in sorted(by_folds, reverse=True):
        found = sorted(by_folds[folds], key=lambda axis: -axis.correlation)[:_PAIRS]
        for u, v in _pairs(found, axes[2], 90.0):
            yield f"D{folds}", _placed(u, v, z, x)
    for folds in sorted(by_folds, reverse=True):
        for axis in sorted(by_folds[folds], key=lambda axis: -axis.correlation)[:2]:
            yield f"C{folds}", _any_frame(axis.direction)


def _spins(folds: int) -> NDArray[np.float64]:
    return about_axis(np.array([0, 0, 1.0]), 2 * np.pi / folds)[None]


def _any_frame(u: NDArray[np.float64]) -> NDArray[np.float64]:
    helper = np.array([1.0, 0, 0]) if abs(u[0]) < 0.9 else np.array([0, 1.0, 0])
    return _placed(u, helper, np.array([0, 0, 1.0]), np.array([1.0, 0, 0]))


def _judged(probe: SelfCorrelation, group: str, start: Placement) -> FoundSymmetry:
    """Refine a group's placement and tell its worst operator's correlation."""
    operators = symmetry_operators(group)[1:]
    rough = probe.relative(start.rotation @ operators @ start.rotation.T, start.center)
    if rough.mean() < _PEAK_LEVEL:
        return FoundSymmetry(group, start, float(rough.min()))
    # a few operators place the whole: those that turn about different axes
    some = operators[:: max(1, len(operators) // 6)]
    placement = probe.refined(some, start)
    scores = probe.relative(placement.rotation @ operators @ placement.rotation.T, placement.center)
    return FoundSymmetry(group, placement, float(scores.min()))


def _is_periodic(probe: SelfCorrelation, found: FoundSymmetry) -> bool:
    """Return whether the main axis's folds are folds, and not just roundness."""
    if found.group[0] not in "CD":
        return True
    folds = int(found.group[1:])
    at = found.placement
    u = at.rotation[:, 2]
    half, whole = probe.relative(np.stack([about_axis(u, np.pi / folds), about_axis(u, 2 * np.pi / folds)]), at.center)
    return bool(whole - half >= _CONTRAST)
