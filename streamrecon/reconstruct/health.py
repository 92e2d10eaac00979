"""How well the map explains each image, and what that says about its optics group.

An image is explained by the map, or by noise that has a spectrum of its own (junk: ice, carbon, an empty box). The
evidence of both gives the probability that it is an inlier, by which it is weighed when it is inserted: no hard cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamrecon.reconstruct.results import GroupHealth

_WINDOW_IMAGES = 1000.0
_START_SHARE = 0.9
_SHARE_RANGE = (0.05, 0.995)


def junk_log_evidence(
    power: NDArray[np.floating], inverse_noise: NDArray[np.floating], points_in_shell: NDArray[np.integer], fill: float
) -> NDArray[np.float64]:
    """Return the log-evidence of "noise with a spectrum of its own" over "the group's noise alone", (n,) nats.

    Parameters
    ----------
    power : ndarray, (n, n_shells)
        Mean |F|^2 of the masked images by shell.
    inverse_noise : ndarray, (n, n_shells)
    points_in_shell : ndarray, (k_max + 1,)
        Half-plane points of each shell in the band; shell 0 has none.
    fill : float
        Share of the noise's power that the mask lets through; the n_s points of a shell count as ``fill n_s``.

    Notes
    -----
    With r the power of a shell over that of the noise and n its independent points, the best spectrum gains
    n (r - 1 - log r), and pays for its one parameter by Schwarz's log(n) / 2. Shells that do not pay stay as they are.
    """
    shells = slice(1, len(points_in_shell))
    independent = np.maximum(fill * points_in_shell[shells], 1.0)
    ratio = np.maximum(power[:, shells].astype(np.float64) * inverse_noise[:, shells] / fill, 1e-6)
    gain = independent * (ratio - 1.0 - np.log(ratio)) - 0.5 * np.log(independent)
    return np.asarray(np.maximum(gain, 0.0).sum(axis=1))


class Health:
    """Running health of every optics group, and the share of inliers that is the mixture's prior.

    Attributes
    ----------
    share : float
        Share of images that the map explains.
    particles : ndarray, (n_groups,) float64
        Each counted once.
    sums : ndarray, (n_groups, 4) float64
        Decaying sums over the latest images: of ones, log-evidence, effective sample size, inlier probability.
    """

    def __init__(self) -> None:
        self.share = _START_SHARE
        self.particles = np.zeros(0)
        self.sums = np.zeros((0, 4))

    def inlier_probability(self, log_evidence: NDArray[np.floating], junk: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the posterior probability of "this map" against "junk", (n,), and fold it into the share."""
        odds = np.log(self.share / (1.0 - self.share)) + np.asarray(log_evidence, np.float64) - junk
        probability = 1.0 / (1.0 + np.exp(-np.clip(odds, -60.0, 60.0)))
        step = min(1.0, len(probability) / _WINDOW_IMAGES)
        self.share = float(np.clip(self.share + step * (probability.mean() - self.share), *_SHARE_RANGE))
        return np.asarray(probability, np.float32)

    def update(
        self,
        group: NDArray[np.integer],
        log_evidence: NDArray[np.floating],
        effective_sample_size: NDArray[np.floating],
        inlier: NDArray[np.floating],
        *,
        new: bool,
    ) -> None:
        """Fold in a batch; ``new``: its particles were never seen before."""
        missing = int(group.max()) + 1 - len(self.particles)
        if missing > 0:
            self.particles = np.concatenate([self.particles, np.zeros(missing)])
            self.sums = np.concatenate([self.sums, np.zeros((missing, 4))])
        for g in np.unique(group):
            rows = group == g
            n = float(np.count_nonzero(rows))
            self.particles[g] += n if new else 0.0
            keep = _WINDOW_IMAGES / (_WINDOW_IMAGES + n)
            means = (1.0, log_evidence[rows].mean(), effective_sample_size[rows].mean(), inlier[rows].mean())
            self.sums[g] = keep * self.sums[g] + n * np.array(means, np.float64)

    def groups(
        self, names: Sequence[str], scale: NDArray[np.floating], b_factor: NDArray[np.floating], *, judged: bool
    ) -> tuple[GroupHealth, ...]:
        """Return the health of the groups seen so far; ``judged``: inlier probabilities are in use."""
        found = []
        for g, name in enumerate(names[: len(self.particles)]):
            if not self.sums[g, 0]:
                continue
            _, evidence, size, inlier = self.sums[g] / self.sums[g, 0]
            found.append(
                GroupHealth(
                    name=name,
                    particles=int(self.particles[g]),
                    mean_log_evidence=float(evidence),
                    mean_effective_sample_size=float(size),
                    amplitude_scale=float(scale[g]) if g < len(scale) else None,
                    inlier_share=float(inlier) if judged else None,
                    b_factor_angstrom2=float(b_factor[g]) if g < len(b_factor) else None,
                )
            )
        return tuple(found)

    def state(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, float]]:
        """Return arrays and scalars for a checkpoint."""
        return {"health_particles": self.particles, "health_sums": self.sums}, {"health_share": self.share}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]], scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self.particles = np.array(arrays["health_particles"], np.float64)
        self.sums = np.array(arrays["health_sums"], np.float64)
        self.share = float(scalars["health_share"])
