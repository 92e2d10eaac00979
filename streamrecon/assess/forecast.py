"""How many particles a resolution costs: the line of Rosenthal and Henderson, its B-factor, and what it foretells.

    1 / d^2 = a + (2 / B) ln N

A better resolution d costs exponentially more particles N; how much more, B says. The line is fitted to what one
session has reached so far, and read forward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# neighbouring points share nearly all their particles: only those this factor in N apart tell of each other
POINT_RATIO = 1.15
_LEAST_POINTS = 5
_LEAST_RANGE = 1.8
# beyond any session: a forecast of that many is told as "none"
_MOST_PARTICLES = 1e12
CONFIDENCE = 0.9


@dataclass(frozen=True)
class RosenthalHendersonFit:
    """The fitted line.

    Attributes
    ----------
    intercept, slope : float, angstrom^-2
        Of 1 / d^2 over ln N.
    residual : float, angstrom^-2
        Standard deviation around the line; 0 for points that lie on it.
    points : int
    mean_log_particles, spread : float
        Mean of ln N, and the sum of squares around it.
    confidence : float
        Of all intervals.
    """

    intercept: float
    slope: float
    residual: float
    points: int
    mean_log_particles: float
    spread: float
    confidence: float

    @property
    def _quantile(self) -> float:
        return float(stats.t.ppf(0.5 + self.confidence / 2, self.points - 2))

    @property
    def b_factor_angstrom2(self) -> float:
        """Return B = 2 / slope; all that blurs: specimen, movement, optics, poses."""
        return 2.0 / self.slope

    @property
    def b_factor_interval_angstrom2(self) -> tuple[float, float]:
        """Return the interval of B; infinite above where the slope may be 0."""
        reach = self._quantile * self.residual / math.sqrt(self.spread)
        low = self.slope - reach
        return 2.0 / (self.slope + reach), 2.0 / low if low > 0 else math.inf

    def particles_for(self, resolution_angstrom: float) -> tuple[float, float, float]:
        """Return how many particles a resolution takes, and the interval of that; inf for "no number".

        Notes
        -----
        The interval is Fieller's: all ln N at which the line's confidence band holds 1 / d^2. It is not symmetric, and
        open above where the slope's own uncertainty is too large.

        References
        ----------
        Fieller 1954, J. R. Stat. Soc. B 16, 175.
        """
        y = 1.0 / resolution_angstrom**2
        # around the mean: y = m + slope u, with u = ln N - mean
        mean_y = self.intercept + self.slope * self.mean_log_particles
        best = (y - mean_y) / self.slope
        t2 = (self._quantile * self.residual) ** 2
        # (y - mean_y - slope u)^2 <= t2 (1 / n + u^2 / spread)
        a = self.slope**2 - t2 / self.spread
        b = -2.0 * self.slope * (y - mean_y)
        c = (y - mean_y) ** 2 - t2 / self.points
        root = b * b - 4 * a * c
        if a > 0:
            reach = math.sqrt(max(root, 0.0))
            low, high = (-b - reach) / (2 * a), (-b + reach) / (2 * a)
        else:
            # the slope is not surely positive: only the nearer bound exists
            low = max((-b + s * math.sqrt(root)) / (2 * a) for s in (1, -1)) if root > 0 and a < 0 else -math.inf
            low, high = min(low, best), math.inf
        return self._particles(best), self._particles(low), self._particles(high)

    def _particles(self, offset: float) -> float:
        log = offset + self.mean_log_particles
        if log > math.log(_MOST_PARTICLES):
            return math.inf
        return math.exp(max(log, 0.0))


def fit_rosenthal_henderson(
    particles: Sequence[float], resolution_angstrom: Sequence[float], *, confidence: float = CONFIDENCE
) -> RosenthalHendersonFit | None:
    """Fit the line by least squares of 1 / d^2 over ln N.

    Parameters
    ----------
    particles, resolution_angstrom : sequence, one a point
        In the order in which they came. Leave out points that something else than the particles held back: a band
        that was still growing, a search that had not settled.
    confidence : float
        Of the intervals.

    Returns
    -------
    RosenthalHendersonFit or None
        None with fewer than five points, with points over less than a factor of 1.8 in N, or if more particles did not
        make the map better.

    Notes
    -----
    ln N is known exactly and 1 / d^2 is not, so it is 1 / d^2 that is regressed. Of points closer together than a
    factor of 1.15 in N the last is used: they share nearly all their particles, and would make the interval too
    narrow. What is left still shares particles; the interval says how well a line fits, not whether the session stays
    as it is.

    References
    ----------
    Rosenthal and Henderson 2003, J. Mol. Biol. 333, 721, eq. 19 and figure 11.
    """
    kept: list[tuple[float, float]] = []
    for n, d in zip(particles, resolution_angstrom, strict=True):
        if not (n >= 1 and 0 < d < math.inf):
            continue
        if len(kept) > 1 and n < POINT_RATIO * kept[-2][0]:
            kept[-1] = (n, d)
        else:
            kept.append((n, d))
    if len(kept) < _LEAST_POINTS or kept[-1][0] < _LEAST_RANGE * kept[0][0]:
        return None
    x = np.log([n for n, _ in kept])
    y = 1.0 / np.square([d for _, d in kept])
    mean = float(x.mean())
    spread = float(np.square(x - mean).sum())
    slope = float(np.dot(x - mean, y - y.mean()) / spread)
    if slope <= 0:
        return None
    intercept = float(y.mean()) - slope * mean
    residual = math.sqrt(float(np.square(y - intercept - slope * x).sum()) / (len(x) - 2))
    return RosenthalHendersonFit(intercept, slope, residual, len(x), mean, spread, confidence)


@dataclass(frozen=True)
class Forecast:
    """What a resolution takes in all; hours from now, 0 if it should be there already, None if unknown or never.

    ``particles`` counts from the session's first particle.
    """

    resolution_angstrom: float
    particles: float | None
    particles_low: float | None
    particles_high: float | None
    hours: float | None
    hours_low: float | None
    hours_high: float | None


def forecast(
    fit: RosenthalHendersonFit, resolution_angstrom: float, particles_seen: int, particles_per_hour: float | None
) -> Forecast:
    """Return particles and hours to a resolution, with the fit's interval.

    Parameters
    ----------
    fit : RosenthalHendersonFit
    resolution_angstrom : float
    particles_seen : int
    particles_per_hour : float or None
        None while it is unknown.
    """
    numbers = [n if math.isfinite(n) else None for n in fit.particles_for(resolution_angstrom)]

    def hours(n: float | None) -> float | None:
        if n is None or particles_per_hour is None or particles_per_hour <= 0:
            return None
        return max(0.0, n - particles_seen) / particles_per_hour

    return Forecast(resolution_angstrom, *numbers, *(hours(n) for n in numbers))
