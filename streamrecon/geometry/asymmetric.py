"""The part of a search's directions that a symmetric map leaves to be told apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.geometry.quadrature import PoseCells

_TRIES = 500


def asymmetric_cells(cells: PoseCells, operators: NDArray[np.floating]) -> PoseCells:
    """Keep of every set of equivalent directions one, and with it its antipode.

    Parameters
    ----------
    cells : PoseCells
        Of all directions.
    operators : ndarray, (order, 3, 3)
        The map's point group, in the frame of the directions.

    Notes
    -----
    The group together with the inversion, H, is what pairs of antipodes are equivalent under. Its domain
    {u : u.p >= (h u).p for all h} around a point p in general position holds one of each set; p is the one of a few
    hundred that lies farthest from its own images, which makes the domain round. A pair is kept if any of its
    sub-pixels lies in there: at the rim some directions stay that are equivalent to others.
    """
    if len(operators) == 1:
        return cells
    group = np.concatenate([operators, -np.asarray(operators)])  # (2 order, 3, 3)
    # inversion itself may be in the product twice: only images that differ from u itself tell
    center = _general_point(group)
    theta, phi = (cells.children[: cells.n_pairs, :, i].astype(np.float64) for i in range(2))
    u = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    own = np.abs(u @ center)  # (n_pairs, n_children); the antipode is in the pair
    best = np.max([np.abs(u @ (h.T @ center)) for h in operators], axis=0)
    kept = np.flatnonzero((own >= best - 1e-9).any(axis=1))
    rows = np.concatenate([kept, kept + cells.n_pairs])
    return replace(
        cells,
        directions=np.ascontiguousarray(cells.directions[rows]),
        children=np.ascontiguousarray(cells.children[rows]),
        share=cells.share * len(kept) / cells.n_pairs,
    )


def _general_point(group: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a unit vector that lies far from its images, (3,)."""
    i = np.arange(_TRIES) + 0.5
    z, angle = 1 - 2 * i / _TRIES, np.pi * (1 + np.sqrt(5)) * i
    r = np.sqrt(1 - z**2)
    points = np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)
    cosine = np.einsum("ni,gij,nj->gn", points, group, points)
    cosine[np.abs(group - np.eye(3)).max(axis=(1, 2)) < 1e-6] = -1.0
    return np.asarray(points[np.argmin(cosine.max(axis=0))], np.float64)
