"""When to doubt the random start that went on, and to hold a fresh one against it.

A failed start does not know it: it is sure of its poses, and wrong. What can be seen from outside are signs: starts
that ended in different maps, a search that does not settle, images that the map does not explain, a band that comes to
rest early. None of them proves anything, so the start is not thrown away: a fresh one runs beside it on the same images
for a while, and takes its place only if it explains them clearly better. Seldom, and a few times at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from streamrecon.reconstruct.results import EngineStatus

AGREEING = 0.7  # of two maps' coefficients up to shell 12, every shell alike: two good starts reach 0.9
_MOST = 2  # challenges in a session
_LIFE = 6.0  # annealings: a challenger that has not settled by then will not
_PATIENCE = 4.0  # annealings between the end of the clock and doubt, and between two challenges
_INLIERS = 0.5
_JUDGED = 1.0  # annealings over which so few images are explained
_EARLY_REST = 10  # shells


@dataclass
class Challenges:
    """What has been tried, and what is under way.

    Attributes
    ----------
    count : int
        Challengers so far.
    reason : str
        Why the last one was made, and what came of it; for people.
    agreement : float
        Of the maps of the last two starts compared; NaN before.
    since : int
        Image visits when the present challenger began; -1 without one.
    ended : int
        Image visits when the last comparison ended; -1 before.
    unsettled, unexplained : int
        Images in a row after the clock had run down without settling, and with few inliers.
    """

    count: int = 0
    reason: str = ""
    agreement: float = math.nan
    since: int = -1
    ended: int = -1
    unsettled: int = 0
    unexplained: int = 0

    @property
    def running(self) -> bool:
        """Whether a challenger runs beside the start that leads."""
        return self.since >= 0

    def note(self, status: EngineStatus, images: int, *, clock_is_down: bool) -> None:
        """Take note of a batch of images folded by the start that leads."""
        overdue = status.stage == "searching" and clock_is_down
        self.unsettled = self.unsettled + images if overdue else 0
        few = status.inlier_share < _INLIERS  # never, while it is NaN
        self.unexplained = self.unexplained + images if few else 0

    def doubt(self, status: EngineStatus, settle_images: int, sure_shells: int) -> str:
        """Return why the start that leads should be held against a fresh one, "" if it need not be."""
        if self.running or self.count >= _MOST:
            return ""
        if self.count and status.image_visits - self.ended < _PATIENCE * settle_images:
            return ""
        if self.agreement < AGREEING:
            return f"the maps of two random starts agree by {self.agreement:.2f} only"
        if self.unsettled > _PATIENCE * settle_images:
            return (
                f"the search has not settled in {self.unsettled} images since its schedule ended: coarse entropy "
                f"{status.coarse_entropy:.1f} nats"
            )
        if math.isfinite(self.agreement):
            return ""  # two starts found the same map: what is poor about it, is so in the images
        if self.unexplained > _JUDGED * settle_images:
            return f"the map explains {status.inlier_share:.0%} of the images only"
        if status.stage == "refining" and sure_shells < _EARLY_REST:
            return f"the halves agree up to shell {sure_shells} only"
        return ""

    def begin(self, reason: str, image_visits: int) -> None:
        """Take note of a challenger."""
        self.count += 1
        self.since, self.reason = image_visits, f"a fresh random start runs beside the first: {reason}"
        self.unsettled = self.unexplained = 0

    def too_old(self, image_visits: int, settle_images: int) -> bool:
        """Return whether the challenger should have settled long ago."""
        return self.running and image_visits - self.since > _LIFE * settle_images

    def end(self, outcome: str, image_visits: int) -> None:
        """Take note of how a comparison of starts ended."""
        self.since, self.ended = -1, image_visits
        self.reason = outcome

    def state(self) -> dict[str, int | float | str]:
        """Return scalars for a checkpoint."""
        values = {f"challenge_{name}": value for name, value in asdict(self).items()}
        # JSON knows no NaN
        values["challenge_agreement"] = self.agreement if math.isfinite(self.agreement) else "unknown"
        return values

    @classmethod
    def restored(cls, scalars: Mapping[str, int | float | str]) -> Challenges:
        """Return what `state` gave."""
        fresh = cls()
        for f in fields(cls):
            value = scalars[f"challenge_{f.name}"]
            known = math.nan if value == "unknown" else type(getattr(fresh, f.name))(value)
            setattr(fresh, f.name, known)
        return fresh
