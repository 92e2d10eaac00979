"""How far a reconstruction has come: its counters, its stage and its annealing clock, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from streamrecon.fourier.shells import resolution_from_fsc
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.annealing import Annealer
from streamrecon.reconstruct.band import FSC_THRESHOLD
from streamrecon.reconstruct.counters import Counters, Recent, from_prefix, with_prefix
from streamrecon.reconstruct.results import EngineStatus
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.stages import Stages

_UPDATE_SHARE = 0.05  # of the images in the sums: as much must have come or changed for another map to be worth solving
_SPLIT_SHARE = 0.9  # of all particles, where there are fewer than a window of them


class Progress:
    """Where a reconstruction stands.

    Parameters
    ----------
    settings : EngineSettings
    n_cells : int
        Cells of the coarse search.

    Attributes
    ----------
    done : Counters
    recent : Recent
        What the latest batch said.
    stages : Stages
    annealer : Annealer
    """

    def __init__(self, settings: EngineSettings, n_cells: int) -> None:
        self._settings = settings
        self.done = Counters()
        self.recent = Recent()
        self.stages = Stages()
        self.annealer = Annealer(round(settings.settle_images * settings.patience), n_cells)

    @property
    def searching(self) -> bool:
        """Whether poses are still being searched for on the first, poor maps."""
        return self.stages.name == "searching"

    @property
    def update_due(self) -> bool:
        """Whether the map is to be solved anew: at every batch until the search settles, then now and then.

        In refinement the more seldom, the more images are in the sums: solving takes as long as some hundred images at
        a large box, and a map of a twentieth more of them hardly differs.
        """
        due: float = self._settings.update_images if self.annealer.settled else 1
        if self.stages.split:
            due = max(due, _UPDATE_SHARE * self.done.held)
        return self.done.image_visits - self.done.last_update >= due

    @property
    def collecting(self) -> bool:
        """Whether the halves gather maps of their own, and are not posed against them yet."""
        return self.stages.name == "refining" and not self.stages.split

    @property
    def collected(self) -> bool:
        """Whether what they gathered is better than what they are posed against."""
        done = self.done
        return done.held >= min(self._settings.settled_window_images, _SPLIT_SHARE * done.particles_seen)

    def window(self) -> float:
        """Images that the running sums remember: few while poses still change, ever more once settled."""
        s, done = self._settings, self.done
        if self.searching:
            return s.search_window_images
        if self.stages.name == "settled":
            return max(s.settled_window_images, s.window_growth * (done.image_visits - self.annealer.settled_at))
        if done.revisits:
            return np.inf  # what is coarse in the sums is replaced, it need not fade
        return max(s.settled_window_images, s.refinement_window_growth * done.held)

    def move_on(self, log_evidence: float | None) -> None:
        """Change stage where the measured state says so; the map's update decides the hand-over to refinement.

        Only new images (of which ``log_evidence`` is known) can contradict the map: revisits begin with the worst.
        """
        entropy = self.annealer.entropy
        if self.annealer.settled and self.searching:
            self.stages.settle(entropy)
            self.done.frame += 1  # poses of the search are not worth starting from
        if log_evidence is None:
            return
        if self.stages.note_entropy(entropy) or self.stages.note_evidence(log_evidence):
            self.stages.search_again()
            self.annealer.reopen()
            self.done.frame += 1

    def sums_emptied(self) -> None:
        """Take note that everything gathered was forgotten."""
        self.done.epoch += 1
        self.done.held = self.done.revisits = 0

    def status(self, geometry: ImageGeometry, k_max: int, fsc: NDArray[np.floating]) -> EngineStatus:
        """Return where the engine stands, with the band and the half-set FSC of its map."""
        done, box, pixel = self.done, geometry.box_size, geometry.pixel_size_angstrom
        return EngineStatus(
            stage=self.stages.name if done.particles_seen else "waiting",
            particles_seen=done.particles_seen,
            image_visits=done.image_visits,
            step=done.step,
            k_max=k_max,
            temperature=done.temperature,
            resolution_angstrom=resolution_from_fsc(fsc, box, pixel, FSC_THRESHOLD),
            fsc_kind="gold_standard" if self.stages.split else "common",
            stage_reason=self.stages.reason,
            search_progress=self.annealer.progress,
            method=self._settings.method,
            **asdict(self.recent),
        )

    def state(self) -> dict[str, int | float | str]:
        """Return scalars for a checkpoint."""
        return {
            "annealing_progress": self.annealer.progress,
            "settled_at": self.annealer.settled_at,
            **with_prefix("done_", self.done),
            **with_prefix("recent_", self.recent),
            **with_prefix("stage_", self.stages),
        }

    def restore(self, scalars: Mapping[str, int | float | str]) -> None:
        """Take up what `state` gave."""
        self.done = from_prefix(Counters, "done_", scalars)
        self.recent = from_prefix(Recent, "recent_", scalars)
        self.stages = from_prefix(Stages, "stage_", scalars)
        annealer = self.annealer
        annealer.progress, annealer.settled_at = float(scalars["annealing_progress"]), int(scalars["settled_at"])
        annealer.entropy = self.recent.coarse_entropy
