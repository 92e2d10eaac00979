"""Adaptive importance sampling of poses at full band.

Population Monte Carlo: samples of the coarse posterior are scored exactly, resampled, and replaced by new
ones in ever smaller boxes around them; each round's weights use the density of its whole mixture, so the
last round alone is a self-normalised importance sample of the posterior.

References
----------
Cappe et al. 2004, J. Comput. Graph. Stat. 13, 907; Brubaker, Punjani and Fleet 2015, CVPR, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints


@dataclass(frozen=True)
class Band:
    """Part of the half plane that a round is scored on: its points, and where they stand in the whole (None: all)."""

    points: HalfPlanePoints
    index: Array | None


@dataclass(frozen=True)
class SamplingPlan:
    """How poses are refined after the first draw.

    Attributes
    ----------
    rotation_half_widths : tuple of float, radians
    shift_half_widths : tuple of float, pixels
        One each a round.
    bands : tuple of Band
        What the first draw and each round are scored on, one more than there are rounds; the last is the whole band.
    samples : tuple of int
        Poses drawn in each round: the last makes the posterior, those before only find where it is.
    shift_area : float, pixels^2
        Of all shifts the search covers: the uniform density's support.
    temperature : float
    """

    rotation_half_widths: tuple[float, ...]
    shift_half_widths: tuple[float, ...]
    bands: tuple[Band, ...]
    samples: tuple[int, ...]
    shift_area: float
    temperature: float


@dataclass(frozen=True)
class PoseSamples:
    """Weighted poses of n images: rotation (n, K, 3, 3), shift (n, K, 2) pixels, weight (n, K).

    ``log_evidence`` (n,) is the log of the likelihood ratio averaged over all poses (at the temperature),
    ``effective_sample_size`` (n,) counts samples, ``best`` (n,) indexes the likeliest. ``evaluations`` is what the
    scoring cost, in poses over the whole band: one over a narrower band counts for its share of the points.
    ``coarse_entropy`` (n,), nats, is that of the search's cell posterior at its temperature; None without a search.
    """

    rotation: Array
    shift: Array
    weight: Array
    log_evidence: Array
    effective_sample_size: Array
    best: Array
    evaluations: int
    coarse_entropy: Array | None = None

    def best_pose(self, backend: Backend) -> tuple[Array, Array]:
        """Return rotation (n, 3, 3) and shift (n, 2) of each image's likeliest sample."""
        return backend.pick(self.rotation, self.best), backend.pick(self.shift, self.best)

    def take(self, rows: slice) -> PoseSamples:
        """Return the samples of some images; what was spent stays that of all."""
        names = ("rotation", "shift", "weight", "log_evidence", "effective_sample_size", "best")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @classmethod
    def concatenate(cls, backend: Backend, pieces: Sequence[PoseSamples]) -> PoseSamples:
        """Join the samples of consecutive images."""
        names = ("rotation", "shift", "weight", "log_evidence", "effective_sample_size", "best")
        joined = {name: backend.concatenate([getattr(piece, name) for piece in pieces]) for name in names}
        entropies = [piece.coarse_entropy for piece in pieces if piece.coarse_entropy is not None]
        entropy = backend.concatenate(entropies) if len(entropies) == len(pieces) else None
        return cls(**joined, evaluations=sum(piece.evaluations for piece in pieces), coarse_entropy=entropy)


def plan_rounds(
    rotation_half_width: float, shift_half_width: float, rotation_target: float, max_rounds: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Halve the boxes each round until they are as small as the band can resolve.

    Returns the half widths in rotation (radians) and shift (pixels), one a round, at least one round.
    """
    rotations, shifts = [], []
    for _ in range(max_rounds):
        rotation_half_width, shift_half_width = rotation_half_width / 2, shift_half_width / 2
        rotations.append(rotation_half_width)
        shifts.append(shift_half_width)
        if rotation_half_width <= rotation_target:
            break
    return tuple(rotations), tuple(shifts)


def refine_samples(
    backend: Backend,
    cube: Array,
    pad: int,
    box_size: int,
    weighed: Array,
    first: Sequence[Array],
    plan: SamplingPlan,
    random: tuple[Array, Sequence[Array]],
) -> PoseSamples:
    """Score the first draws and refine them round by round, on bands that widen as the boxes shrink.

    Each round is an importance sample of the posterior of its own band; the last, of the posterior itself.

    Parameters
    ----------
    weighed : ndarray, (3, n, n_points)
        From `Backend.weigh`.
    first : rotation (n, M, 3, 3), shift (n, M, 2), density (n, M), and what else there is
    random : start (n, rounds), uniform (n, K, 5) for each round, float32 in [0, 1)
    """
    rotation, shift, density = first[:3]
    starts, moves = random
    n_points = weighed.shape[2]
    scored = 0

    def weigh(band: Band) -> tuple[Array, Array]:
        nonlocal scored
        part = weighed if band.index is None else weighed.take(band.index, axis=2)
        score = backend.score(cube, pad, band.points, box_size, part, rotation, shift)
        scored += score.size * part.shape[2]
        return backend.normalise(score, density, plan.temperature)

    weight, summary = weigh(plan.bands[0])
    for r, (turn, slide) in enumerate(zip(plan.rotation_half_widths, plan.shift_half_widths, strict=True)):
        rotation, shift, density = backend.propose(
            rotation, shift, weight, turn, slide, plan.shift_area, starts[:, r], moves[r]
        )
        weight, summary = weigh(plan.bands[r + 1])
    return PoseSamples(
        rotation=rotation,
        shift=shift,
        weight=weight,
        log_evidence=summary[:, 0],
        effective_sample_size=summary[:, 1],
        best=summary[:, 2].astype(np.int32),
        evaluations=round(scored / n_points),
    )
