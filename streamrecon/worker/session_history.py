"""How the resolution went along the session: points for people and for the fit, and the rate of particles."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path

from streamrecon.assess.forecast import RosenthalHendersonFit, fit_rosenthal_henderson
from streamrecon.reconstruct.results import EngineStatus

MOST_POINTS = 200
# the rate is that of the last half hour: a session pauses for grid exchanges
_RATE_SECONDS = 1800.0
FIT_STAGES = ("settled", "refining")
Point = tuple[int, float]


class SessionHistory:
    """Resolution against particles, at most 200 points of each kind.

    Attributes
    ----------
    points : list of (particles_seen, resolution_angstrom)
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._fit_points: list[Point] = []
        self._fsc_kind = ""
        self._times: deque[tuple[float, int]] = deque(maxlen=MOST_POINTS)

    @classmethod
    def read(cls, path: Path, particles_seen: int) -> SessionHistory:
        """Return what an earlier run of the session left in assessment.json, up to what it now holds.

        A file that is missing or is not ours gives an empty history: it is worth having, not worth stopping for.
        """
        history = cls()
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))["history"]
            history._fsc_kind = str(kept["fsc_kind"])
            for target, name in ((history.points, "points"), (history._fit_points, "fit_points")):
                pairs = [(int(n), float(d)) for n, d in kept[name][:MOST_POINTS]]
                target += [(n, d) for n, d in pairs if 0 < n <= particles_seen and 0 < d < math.inf]
        except (OSError, ValueError, KeyError, TypeError):
            return cls()
        return history

    def add(self, status: EngineStatus, resolution_angstrom: float, length_angstrom: float, now: float) -> None:
        """Add the point of one snapshot.

        Parameters
        ----------
        status : EngineStatus
        resolution_angstrom : float
        length_angstrom : float
            Of the box's side: what a shell's number means.
        now : float, seconds
            Of a clock that does not jump.

        Notes
        -----
        For the fit count only points at which particles set the resolution: not while searching, and not where the
        resolution lies at the edge of the band in use, which grows at its own pace. Halves posed on one map and
        halves posed on their own follow different lines, so a change of ``fsc_kind`` begins the fit anew.
        """
        self._times.append((now, status.particles_seen))
        while self._times[-1][0] - self._times[0][0] > _RATE_SECONDS and len(self._times) > 2:
            self._times.popleft()
        if not 0 < resolution_angstrom < math.inf:
            return
        if self.points and self.points[-1][0] >= status.particles_seen:
            return
        point = (status.particles_seen, resolution_angstrom)
        self.points.append(point)
        self.points = thinned(self.points)
        if status.fsc_kind != self._fsc_kind:
            self._fsc_kind, self._fit_points = status.fsc_kind, []
        free = length_angstrom / resolution_angstrom < status.k_max - 1
        if status.stage in FIT_STAGES and free:
            self._fit_points.append(point)
            self._fit_points = thinned(self._fit_points)

    def fit(self) -> RosenthalHendersonFit | None:
        """Return the line through the points that count, None while there are too few."""
        return fit_rosenthal_henderson([n for n, _ in self._fit_points], [d for _, d in self._fit_points])

    @property
    def particles_per_hour(self) -> float | None:
        """Return the rate of the last half hour, None until two snapshots tell."""
        if len(self._times) < 2:
            return None
        (t0, n0), (t1, n1) = self._times[0], self._times[-1]
        return (n1 - n0) / (t1 - t0) * 3600 if t1 > t0 and n1 > n0 else None

    def to_json_able(self) -> dict[str, object]:
        """Return what `read` takes up."""
        return {"fsc_kind": self._fsc_kind, "points": self.points, "fit_points": self._fit_points}


def thinned(points: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most ``most`` points: where there are more, those that stand closest in ln N go, never the ends."""
    while len(points) > most:
        gaps = [math.log(points[i + 1][0] / points[i - 1][0]) for i in range(1, len(points) - 1)]
        points = points[: (drop := gaps.index(min(gaps)) + 1)] + points[drop + 1 :]
    return points
