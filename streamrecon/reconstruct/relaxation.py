"""Which of the poses that an imposed symmetry makes equivalent an image shows best, by a map without it.

The symmetric map cannot tell them apart, and whichever is taken it becomes the same map. So the choice is free, and is
made such that the sums keep what the symmetry leaves out: solved without it they show whether the particle has it.

References
----------
Briggs et al. 2005, J. Struct. Biol. 150, 332 (choosing among equivalent orientations: symmetry relaxation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints
from streamrecon.geometry.orientation import Orientation
from streamrecon.inference.importance import PoseSamples
from streamrecon.reconstruct.collective import Share

_OPERATORS_TRIED = 12  # of a group, the identity among them, in each batch others: what a large group costs at most


def equivalent_poses(
    orientation: Orientation, rotation: NDArray[np.floating], shift: NDArray[np.floating], which: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the poses at which the symmetric map shows the same image.

    Parameters
    ----------
    orientation : Orientation
    rotation : ndarray, (..., 3, 3)
        In the reconstruction's own frame.
    shift : ndarray, (..., 2), pixels
    which : ndarray, (...) int
        Operator of each pose.

    Notes
    -----
    With V(S x + c - S c) = V(x): R' = S R, t' = t - (R'^T (c - S c))_xy.
    """
    operators = orientation.operators[which]  # (..., 3, 3)
    turned = operators @ rotation
    center = np.asarray(orientation.center, np.float64)
    moved = np.einsum("...ji,...j->...i", turned, center - operators @ center)[..., :2]
    return np.asarray(turned, np.float32), np.asarray(shift - moved, np.float32)


def gathered(orientation: Orientation, rotation: NDArray[np.floating], best: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return for each pose the operator that brings it nearest to its image's best one, (n, K).

    Parameters
    ----------
    rotation : ndarray, (n, K, 3, 3)
    best : ndarray, (n,) int
    """
    n, k = rotation.shape[:2]
    first = rotation[np.arange(n), best][:, None]  # (n, 1, 3, 3)
    between = rotation @ first.swapaxes(2, 3)  # (n, K, 3, 3)
    # the larger the trace of S R_j R_best^T, the smaller the angle that is left
    traces = between.swapaxes(2, 3).reshape(n * k, 9) @ orientation.operators.reshape(-1, 9).T  # (n K, order)
    return np.asarray(traces.argmax(axis=1).reshape(n, k))


@dataclass(frozen=True)
class Relaxed:
    """Posteriors with their poses chosen, and what that said of each of this rank's images.

    Attributes
    ----------
    samples : PoseSamples
    log_likelihood : ndarray, (n,) float64
        At the best pose, on the map that the symmetry is imposed on.
    gain : ndarray, (n,) float64
        By how much the map without it explains the image better: the log of the mean likelihood over equivalent poses,
        less the former. Of an image that is in neither map its mean is below 0 where the particle has the symmetry.
    """

    samples: PoseSamples
    log_likelihood: NDArray[np.float64]
    gain: NDArray[np.float64]


def relaxed(
    backend: Backend,
    cubes: Sequence[tuple[Array, Array]],
    pad: int,
    box_size: int,
    orientation: Orientation,
    samples: PoseSamples,
    weighed: Array,
    points: HalfPlanePoints,
    n_a: int,
    rng: np.random.Generator,
    share: Share,
) -> Relaxed:
    """Return the same posteriors, all poses of an image turned by the operator drawn for it.

    Parameters
    ----------
    cubes : two pairs of arrays
        Of the symmetric maps that the images of half a and half b are posed on, and of those without the symmetry.
    samples : PoseSamples
        Of this rank's images: the first ``n_a`` belong to half a. What is found of their best poses is what decides.
    weighed : ndarray, (3, n, n_points)

    Notes
    -----
    The operator g is drawn with probability p(g) ~ L(g R, t_g), R the best pose, L the likelihood under the map without
    symmetry.
    """
    order = len(orientation.operators)
    others = np.sort(rng.permutation(order - 1)[: _OPERATORS_TRIED - 1]) + 1
    uniform = share.own(rng.random(share.n))
    tried = np.concatenate([[0], others])
    n = len(uniform)
    if n == 0:
        return Relaxed(samples, np.zeros(0), np.zeros(0))
    rotation, shift = backend.to_host(samples.rotation), backend.to_host(samples.shift)
    best, rows = backend.to_host(samples.best), np.arange(n)
    near = equivalent_poses(orientation, rotation, shift, gathered(orientation, rotation, best))
    one = tuple(part[rows, best][:, None] for part in near)  # (n, 1, ...)
    shape = (n, len(tried))
    copies = equivalent_poses(
        orientation,
        np.broadcast_to(one[0], (*shape, 3, 3)),
        np.broadcast_to(one[1], (*shape, 2)),
        np.broadcast_to(tried, shape),
    )

    def scores(pair: tuple[Array, Array], poses: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        turns, slides = (backend.to_device(np.ascontiguousarray(part)) for part in poses)
        found: list[Array] = []
        for cube, first, last in ((pair[0], 0, n_a), (pair[1], n_a, n)):
            found += backend.run(
                lambda a, b, c=cube, s=first: backend.score(  # type: ignore[misc]  # mypy knows no such defaults
                    c, pad, points, box_size, weighed[:, s + a : s + b], turns[s + a : s + b], slides[s + a : s + b]
                ),
                last - first,
            )
        return np.asarray(backend.to_host(backend.concatenate(found)), np.float64)

    symmetric, plain = scores(cubes[0], one)[:, 0], scores(cubes[1], copies)
    chosen = tried[drawn(plain, uniform)]
    turned = equivalent_poses(orientation, near[0], near[1], np.broadcast_to(chosen[:, None], rotation.shape[:2]))
    samples = replace(
        samples,
        rotation=backend.to_device(turned[0]),
        shift=backend.to_device(turned[1]),
        evaluations=samples.evaluations + n * (1 + len(tried)),
    )
    return Relaxed(samples, symmetric, logsumexp(plain, axis=1) - np.log(len(tried)) - symmetric)


def drawn(log_likelihood: NDArray[np.floating], uniform: NDArray[np.floating]) -> NDArray[np.int64]:
    """Draw a column of each row by its likelihood, (n,).

    Parameters
    ----------
    log_likelihood : ndarray, (n, m)
    uniform : ndarray, (n,), in [0, 1)
    """
    scores = np.asarray(log_likelihood, np.float64)
    cumulative = np.cumsum(np.exp(scores - scores.max(axis=1, keepdims=True)), axis=1)
    below = cumulative <= uniform[:, None] * cumulative[:, -1:]
    return np.asarray(np.minimum(below.sum(axis=1), scores.shape[1] - 1))
