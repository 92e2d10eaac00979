"""When particles are visited again: while the stream idles, after it has ended, and as long as it pays."""

from __future__ import annotations

from streamrecon.config.model import Config
from streamrecon.reconstruct.results import BatchResult
from streamrecon.worker.reconstruction import Reconstruction
from streamrecon.worker.search_visits import SearchVisits

_GAIN = 0.01  # in resolution or log-evidence, over a sweep; less is rest
_REST_SWEEPS = 2
_NEWS = 0.05  # of what is kept; so many new particles are worth another sweep


class Revisits:
    """Sweeps over the kept particles, a batch at a time, so that new particles never wait long.

    Parameters
    ----------
    config : Config
    reconstruction : Reconstruction

    Attributes
    ----------
    sweeps : int
        Finished since new particles came; those that a small set's search needed are not counted.
    finishing : bool
        Whether the stream is over.
    """

    def __init__(self, config: Config, reconstruction: Reconstruction) -> None:
        self._settings = config.refinement
        self._batch_size = config.feed.batch_size
        self._reconstruction = reconstruction
        self.sweeps = 0
        self.finishing = False
        self._most = self._settings.max_sweeps
        self._resting = 0
        self._new = 0
        self._evidence = self._images = 0.0
        self._before: tuple[float, float] | None = None
        engine = config.engine
        self._search = SearchVisits(round(engine.settle_images * engine.patience))
        self._counted = True
        self._failure = ""

    def note_new(self, particles: int) -> None:
        """Take note of particles folded; enough of them end the rest."""
        store = self._reconstruction.store
        self._new += particles
        if store is not None and self._new > _NEWS * len(store):
            self.sweeps = self._resting = self._new = 0
            self._before = None
            self._search.begin_anew()

    def finish(self) -> None:
        """Take note that no new particle will come: a stated number of sweeps are left, or fewer."""
        self.finishing = True
        self._most = min(self._settings.max_sweeps, self.sweeps + self._settings.final_sweeps)

    @property
    def progress(self) -> str:
        """Return where the last sweeps stand, in words."""
        store = self._reconstruction.store
        left = 0 if store is None else store.index.left_in_sweep
        status = None if self._reconstruction.engine is None else self._reconstruction.engine.status
        if status is not None and status.stage == "searching":
            return f"the search goes on among the kept particles, {status.search_progress:.0%} of its schedule are over"
        return f"last sweeps: {self.sweeps} of at most {self._most} made, {left} particles left in this one"

    @property
    def wanted(self) -> bool:
        """Whether another visit would pay."""
        engine, store = self._reconstruction.engine, self._reconstruction.store
        if engine is None or store is None or not len(store):
            return False
        if self.finishing and not self._settings.final_sweeps:
            return False
        status = engine.status
        if status.stage == "searching":
            return self._search.pays(status, len(store), finishing=self.finishing)
        more = self.sweeps < self._most and self._resting < _REST_SWEEPS
        return more or self._search.under_way(status)

    def new_failure(self) -> str:
        """Return, once, that the search was given all the visits it may have and has not settled; "" if it was not."""
        engine = self._reconstruction.engine
        failure = "" if engine is None else self._search.failure(engine.status)
        told, self._failure = self._failure, failure
        return "" if told else failure

    def step(self) -> BatchResult | None:
        """Visit a batch; None at the end of a sweep, or where a checkpoint under way holds all that are left."""
        engine = self._reconstruction.engine
        before = None if engine is None else engine.status
        result = self._reconstruction.revisit(self._batch_size)
        if result is not None and before is not None:
            self._counted = self._counted and not self._search.under_way(before)
            self._search.note(before, len(result.log_evidence))
            self._evidence += float(result.log_evidence.sum())
            self._images += len(result.log_evidence)
            return result
        store = self._reconstruction.store
        if store is not None and store.index.sweep_is_over:
            store.index.sweep += 1
            self._weigh_up()
        return None

    def _weigh_up(self) -> None:
        """At the end of a sweep: did it gain anything?"""
        counted, self._counted = self._counted, True
        if not counted:
            self._evidence = self._images = 0.0
            return
        self.sweeps += 1
        engine = self._reconstruction.engine
        if engine is None or not self._images:
            return
        now = (engine.status.resolution_angstrom, self._evidence / self._images)
        self._evidence = self._images = 0.0
        before, self._before = self._before, now
        # before the halves have parted a sweep that gains nothing leads on to the next stage
        if before is None or engine.status.fsc_kind != "gold_standard":
            self._resting = 0
            return
        gained = now[0] < (1 - _GAIN) * before[0] or now[1] > before[1] + _GAIN * abs(before[1])
        self._resting = 0 if gained else self._resting + 1
