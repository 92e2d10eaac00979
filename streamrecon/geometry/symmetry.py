"""Point groups Cn, Dn, T, O and I as rotations, in RELION's orientation.

| group | order | axes |
| --- | --- | --- |
| Cn | n | n-fold on z |
| Dn | 2 n | n-fold on z, 2-fold on x |
| T | 12 | 3-fold on z, 2-fold at (0, sqrt(2/3), sqrt(1/3)) |
| O | 24 | 4-folds on x, y, z |
| I | 60 | 2-folds on x, y, z, 5-fold at (1, 0, golden ratio): RELION's I, which is its I2 |
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

MAX_ORDER = 99
_GOLDEN = (1 + np.sqrt(5)) / 2
# axis and order of rotations that generate the group
_POLYHEDRAL: dict[str, tuple[tuple[tuple[float, float, float], int], ...]] = {
    "T": (((0, 0, 1), 3), ((0, np.sqrt(2 / 3), np.sqrt(1 / 3)), 2)),
    "O": (((1, 1, 1), 3), ((0, 0, 1), 4)),
    "I": (((0, 0, 1), 2), ((1, 0, _GOLDEN), 5)),
}


def normalised_group(group: str) -> str:
    """Return the name of a point group as this project spells it.

    Raises
    ------
    ValueError
        There is no such group, or it has other than 1 to 99 folds.
    """
    name = group.strip().upper()
    name = {"I2": "I"}.get(name, name)
    match = re.fullmatch(r"([CD])(\d{1,2})", name)
    if name in _POLYHEDRAL:
        return name
    if match and 1 <= int(match[2]) <= MAX_ORDER:
        folds = int(match[2])
        return "C2" if (match[1], folds) == ("D", 1) else f"{match[1]}{folds}"
    raise ValueError(f"expected C1 to C99, D1 to D99, T, O or I, found {group!r}; choose one of these")


def generators(group: str) -> tuple[tuple[NDArray[np.float64], int], ...]:
    """Return (axis, order) of rotations that generate the group; axes are unit vectors, (x, y, z)."""
    name = normalised_group(group)
    if name in _POLYHEDRAL:
        raw = _POLYHEDRAL[name]
    else:
        folds = int(name[1:])
        raw = (((0, 0, 1), folds),) if folds > 1 else ()
        if name[0] == "D":
            raw = (*raw, ((1, 0, 0), 2))
    return tuple((np.asarray(axis, np.float64) / np.linalg.norm(axis), order) for axis, order in raw)


def about_axis(axis: NDArray[np.floating], angle: float) -> NDArray[np.float64]:
    """Return the rotation by ``angle``, radians, around a unit vector, (3, 3)."""
    return np.asarray(Rotation.from_rotvec(np.asarray(axis, np.float64) * angle).as_matrix(), np.float64)


def symmetry_operators(group: str) -> NDArray[np.float64]:
    """Return all rotations of a group, (order, 3, 3) float64; the first is the identity.

    Raises
    ------
    ValueError
        As `normalised_group`.
    """
    turns = [about_axis(axis, 2 * np.pi / order) for axis, order in generators(group)]
    found = [np.eye(3)]
    # every element is a product of generators: multiply until nothing new comes
    new = found
    while new:
        products = [turn @ old for old in new for turn in turns]
        new = []
        for product in products:
            if all(np.abs(product - known).max() > 1e-6 for known in found):
                found.append(product)
                new.append(product)
    return np.stack(found)
