"""How long visits to kept particles go on searching: until the search settles, or has shown that it will not.

A set that ends before the search has settled is looked at again, as if its images were new ones. What says that it has
converged is measured, as of a stream: the schedule has run down, and the images are sure of their poses, also in maps
that they are not in. One that is too small or too noisy never gets there, and that has to end too.
"""

from __future__ import annotations

from streamrecon.reconstruct.challenge import AGREEING
from streamrecon.reconstruct.results import EngineStatus

LEAST_PARTICLES = 200  # fewer are a map of their own noise, whatever their halves say
LEAST_PARTICLES_IDLE = 500  # as many as the sums remember while searching: more will come, a first few must not decide
_UNSETTLED = 2.0  # annealings: visits after the schedule is over
_PARTING = 4.0  # annealings: visits between settling and halves that are posed on their own


class SearchVisits:
    """Count visits made while searching, and until what was found is refined.

    Parameters
    ----------
    settle_images : int
        Images of one annealing, at its full rate.

    Attributes
    ----------
    needed : bool
        Whether the search has been visited since it began.
    """

    def __init__(self, settle_images: int) -> None:
        self._settle_images = settle_images
        self.needed = False
        self._unsettled = 0
        self._parting = 0

    def begin_anew(self) -> None:
        """Take note of enough new particles: what has been tried says nothing of them."""
        self._unsettled = self._parting = 0

    def note(self, before: EngineStatus, visits: int) -> None:
        """Take note of visits; ``before``: where the engine stood when they were made."""
        if before.stage == "searching":
            self.needed = True
            self._parting = 0
            self._unsettled += visits if before.search_progress >= 1.0 else 0
        elif self.parting(before):
            self._parting += visits

    def pays(self, status: EngineStatus, particles: int, *, finishing: bool) -> bool:
        """Return whether to go on searching among so many kept particles; ``finishing``: no more will come."""
        enough = particles >= (LEAST_PARTICLES if finishing else LEAST_PARTICLES_IDLE)
        return status.stage == "searching" and enough and not self.failure(status)

    def failure(self, status: EngineStatus) -> str:
        """Return in words that the search has been given all the visits it may have; "" while it has not."""
        if status.stage != "searching" or self._unsettled < _UNSETTLED * self._settle_images:
            return ""
        return not_converged(status)

    def under_way(self, status: EngineStatus) -> bool:
        """Return whether a search that visits carry on has not led to a map yet that sweeps refine.

        It is searching, or its halves are not on their own yet, or random starts are still held against each other (the
        engine itself ends that, if need be after some annealings).
        """
        return status.stage == "searching" or self.parting(status) or (self.needed and status.starts > 1)

    def parting(self, status: EngineStatus) -> bool:
        """Return whether a search that visits have ended is still on its way to halves of their own."""
        on_the_way = status.stage in ("settled", "refining") and status.fsc_kind != "gold_standard"
        return self.needed and on_the_way and self._parting < _PARTING * self._settle_images


def caution(status: EngineStatus) -> str:
    """Return in a few words why a map is not to be believed yet, "" if nothing is known against it."""
    if status.stage == "searching":
        return "the search has not settled: map and poses mean nothing yet"
    if status.start_agreement < AGREEING:  # never, while it is NaN
        return f"the maps of two random starts agree by {status.start_agreement:.2f} only: it may be wrong"
    return ""


def not_converged(status: EngineStatus) -> str:
    """Return what is wrong with a map whose search has not settled, and the remedy."""
    return (
        f"not converged: the search has not settled in {status.image_visits} visits to {status.particles_seen} "
        f"particles (coarse entropy {status.coarse_entropy:.1f} nats); map, resolution and poses mean nothing. Give it "
        "more particles, or cleaner ones; check pixel size, CTF and particle diameter"
    )
