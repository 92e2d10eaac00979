"""One reconstruction from one random start: ab initio, then refinement.

Particles are folded when they come, and may be visited again later. It composes what its neighbours do: poses from
the annealed search and importance sampling, online EM on two half-sets, and a band that follows their FSC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.errors import NumericalError
from streamrecon.geometry.orientation import Orientation
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry, Observations
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct import contributions, held_out
from streamrecon.reconstruct.collective import ALONE, Collective, Share
from streamrecon.reconstruct.counters import Recent
from streamrecon.reconstruct.image_model import ImageModel
from streamrecon.reconstruct.kept import Contribution, KeptLayout, KeptParticles, joined_ranks
from streamrecon.reconstruct.observing import Observer
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.progress import Progress
from streamrecon.reconstruct.report import batch_result, random_poses, snapshot_of
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot
from streamrecon.reconstruct.running_map import RunningMap
from streamrecon.reconstruct.seen import Seen
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.symmetry import Symmetry, SymmetryFinder


class Trajectory:
    """A running reconstruction.

    Parameters
    ----------
    settings : EngineSettings
    geometry : ImageGeometry
    k_limit : int
        Last shell it may ever use.
    backend : Backend
    seed : (int, int)
        The session's seed, and which start this is.
    keep : bool
        Hand out with each batch what is needed to visit its particles again.
    collective : Collective
        The processes that share each batch.
    find_symmetry : SymmetryFinder, optional
        Looks for the axes of the symmetry that the settings ask for; without it none is imposed.
    """

    def __init__(
        self,
        settings: EngineSettings,
        geometry: ImageGeometry,
        k_limit: int,
        backend: Backend,
        seed: tuple[int, int],
        *,
        keep: bool = False,
        collective: Collective = ALONE,
        find_symmetry: SymmetryFinder | None = None,
    ) -> None:
        self._settings = settings
        self._geometry = geometry
        self._backend = backend
        self._seed = seed
        self._collective = collective
        self._layout = KeptLayout(k_limit, settings.samples)
        self._poses = PoseEstimator(settings, geometry, backend)
        self._progress = Progress(settings, self._poses.cells.n_cells)
        symmetry = Symmetry(settings.symmetry, find_symmetry, collective)
        self._map = RunningMap(settings, geometry, k_limit, backend, self._poses, self._progress, symmetry, collective)
        self._images = ImageModel(backend, geometry)
        self._observer = Observer(self._poses, self._images, self._map, self._layout, backend, keep=keep)

    @property
    def settled_at(self) -> int:
        """Image visits when the search settled; -1 before."""
        return self._progress.annealer.settled_at

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self._progress.stages.name

    @property
    def split(self) -> bool:
        """Whether each half is posed against its own map."""
        return self._progress.stages.split

    @property
    def orientation(self) -> Orientation:
        """How the frame of its poses lies to that of the maps in its snapshots."""
        return self._map.symmetry.orientation

    @property
    def clock_is_down(self) -> bool:
        """Whether the annealing's schedule is over, settled or not."""
        return self._progress.annealer.progress > 1.0 - 1e-9

    @property
    def sure_shells(self) -> int:
        """Shells up to which the halves agree well."""
        return self._map.sure_shells

    def current_map(self) -> NDArray[np.float32] | None:
        """Return the latest map, in the start's own frame, at the sampling of its band; None before the first."""
        latest = self._map.halves.latest
        return None if latest is None else np.asarray(self._backend.to_host(latest.volume), np.float32)

    def begin_late(self, particles_seen: int, image_visits: int, before: Trajectory) -> None:
        """Let a start that has folded nothing yet count on from what the session has seen in the one ``before``."""
        done = self._progress.done
        self._map.symmetry.learn_from(before._map.symmetry)
        done.particles_seen, done.image_visits = particles_seen, image_visits
        done.last_update = done.last_growth = image_visits

    def take_over(self) -> None:
        """Make sure that kept particles, once visited again, are not in the sums already."""
        self._map.gather_anew()

    @property
    def frame(self) -> int:
        """Which frame of reference poses found now are in: those found in another must be searched anew."""
        return self._seed[1] << 32 | self._progress.done.frame

    @property
    def _epoch(self) -> int:
        return self._seed[1] << 32 | self._progress.done.epoch

    def begin_from(self, volume: NDArray[np.float32]) -> None:
        """Begin from a map, (box,)*3 float32 in the images' units, in the place of random poses."""
        self._map.begin_from(self._backend.to_device(np.asarray(volume, np.float32)))

    def fold(self, batch: ParticleBatch, n_a: int, group: NDArray[np.int32]) -> BatchResult:
        """Fold a batch; each particle counts once.

        Parameters
        ----------
        batch : ParticleBatch
            Sorted: the first ``n_a`` belong to half a, the others to half b.
        group : ndarray, (n,) int32
            Optics groups as the whole session numbers them.

        Raises
        ------
        NumericalError
            An image or a likelihood is not finite; the reconstruction is as it was before.
        """
        started = time.perf_counter()
        table = batch.table
        coefficients = table.ctf_coefficients()
        steps = np.array([1.0 / (g.box_size * g.pixel_size_angstrom) for g in table.optics_groups], np.float32)
        step = steps[table.optics_group_index]
        share = Share(self._collective, len(batch))
        observations, power = self._observer.new(batch, coefficients, step, group, share)
        rng = self._random()
        if self._map.halves.latest is None:
            self._start_from_random_poses(observations, share, n_a, rng)
        seen = self._observer.seen(share, observations, n_a, group, power)
        temperature = self._temperature(seen)
        samples, weighed = self._poses.sample(
            observations, seen.inverse_noise, self._map.points, temperature, seen.n_a, rng, share
        )
        samples = self._map.relaxed(samples, weighed, seen.n_a, rng, share, new=True)
        result, contribution = self._take_in(seen, samples, weighed, temperature, None, fading=len(batch))
        kept = None
        compact = observations.compact
        if compact is not None:
            contribution, compact = joined_ranks(share, contribution, compact)
            kept = contributions.kept_of(compact, coefficients, step, group, n_a, contribution)
        return self._finished(result, kept, started)

    def revisit(self, kept: KeptParticles, n_a: int, *, search: bool) -> BatchResult:
        """Look at particles again: their new poses replace the old ones in the sums.

        Parameters
        ----------
        kept : KeptParticles
            Sorted: the first ``n_a`` belong to half a. What they were handed out with last.
        search : bool
            Search everywhere, beside the poses found earlier; else only around those. While the stage is "searching"
            every image is searched for as if it were new, whatever this says.

        Raises
        ------
        NumericalError
            A likelihood is not finite; the reconstruction is as it was before.
        """
        started = time.perf_counter()
        share = Share(self._collective, len(kept))
        own, observations, power = self._observer.recalled(kept, share)
        rng = self._random()
        if self._map.halves.latest is None:
            self._start_from_random_poses(observations, share, n_a, rng)
        seen = self._observer.seen(share, observations, n_a, kept.group, power)
        # poses that another start found say nothing here, and those of the search would only be learnt by heart
        ours = kept.contribution.frame >> 32 == self._seed[1]
        usable = bool(ours.all()) and not self._progress.searching
        modes = contributions.modes_of(own.contribution, self._backend) if usable else None
        fading = self._fading(ours)
        temperature, points = 1.0, self._map.points
        if search or modes is None:
            temperature = self._temperature(seen, self._explained_by_the_other_half)
            samples, weighed = self._poses.sample(
                observations, seen.inverse_noise, points, temperature, seen.n_a, rng, share, modes
            )
        else:
            samples, weighed = self._poses.resample(
                observations, seen.inverse_noise, points, modes, seen.n_a, rng, share
            )
        samples = self._map.relaxed(samples, weighed, seen.n_a, rng, share, new=False)
        result, contribution = self._take_in(seen, samples, weighed, temperature, own, fading=fading)
        contribution, _ = joined_ranks(share, contribution, None)
        return self._finished(result, replace(kept, contribution=contribution), started)

    def evidence_held_out(self, kept: KeptParticles, n_a: int) -> float:
        """Return the mean log-evidence of particles seen before, each in the map of the half that it is not in.

        Parameters
        ----------
        kept : KeptParticles
            Sorted: the first ``n_a`` belong to half a.
        """
        share = Share(self._collective, len(kept))
        _, observations, power = self._observer.recalled(kept, share)
        return float(self._held_out(self._observer.seen(share, observations, n_a, kept.group, power)).mean())

    def _fading(self, ours: NDArray[np.bool_]) -> int:
        """Return how many images of a visit the sums forget for, as for new ones.

        While searching all: the map must go on changing. Then those whose old contribution may be in the sums and is
        not known, since another start led when they were visited last: what cannot be taken out must fade. In
        refinement none: should this start take the lead, it begins its sums anew.
        """
        if self._progress.searching:
            return len(ours)
        return int(np.count_nonzero(~ours)) if self.stage == "settled" else 0

    def _random(self) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=_stream(self._seed, self._progress.done.step)))

    def _explained_by_the_other_half(self, seen: Seen) -> bool:
        """Return whether images that were seen before show that the map is not merely their own noise."""
        return held_out.explained(self._held_out(seen))

    def _held_out(self, seen: Seen) -> NDArray[np.float32]:
        return held_out.log_evidence(self._map, self._poses, self._backend, seen, self._random())

    def _temperature(self, seen: Seen, confirm: Callable[[Seen], bool] | None = None) -> float:
        """Return the annealing's temperature for a batch, and let its clock run; ``confirm`` may forbid to settle."""
        if self._progress.annealer.settled:
            return 1.0  # how wide the posterior is, the search itself will tell
        histogram = self._poses.probe(seen.observations, seen.inverse_noise, seen.share)
        asked = None if confirm is None else partial(confirm, seen)
        visits = self._progress.done.image_visits
        return self._progress.annealer.temperature(histogram, seen.share.n, visits, asked)

    def _take_in(
        self,
        seen: Seen,
        samples: PoseSamples,
        weighed: Array,
        temperature: float,
        old: KeptParticles | None,
        *,
        fading: int,
    ) -> tuple[BatchResult, Contribution]:
        """Put a batch's posteriors into the sums, in the place of old ones if there are, and move on.

        Before that the sums forget as much as ``fading`` new images make them. Returns the result of the whole batch,
        and what this rank's images added.
        """
        share, n, done, searching = seen.share, seen.share.n, self._progress.done, self._progress.searching
        result = batch_result(self._backend, self._geometry, samples).joined_ranks(share)
        if not np.isfinite(result.log_evidence).all():
            raise NumericalError(
                f"batch of {n} particles: a likelihood is not finite; check these images for extreme values"
            )
        if self._progress.annealer.settled and samples.coarse_entropy is not None:
            (entropy,) = share.join(self._backend.to_host(samples.coarse_entropy))
            self._progress.annealer.entropy = float(entropy.mean())
        inlier = np.ones(n, np.float32)
        fill = seen.observations.mask_fill
        if not searching and temperature <= 1.0:
            inlier = self._images.judge(seen.group, seen.power, fill, result.log_evidence, self._map.points)
        strength = (self._images.amplitude(seen.observations.group), self._images.b_factor(seen.observations.group))
        shells = 0 if searching or not self._images.compares_groups else self._map.sure_shells
        points = self._map.points
        residual, match_and_power = seen.measured(self._poses, samples, points, shells)
        self._images.learn(seen.group, residual, fill, result, inlier, points, match_and_power, new=old is None)
        if fading:
            self._map.halves.forget(1.0 - min(0.5, fading / self._progress.window()))
        there = 0
        if old is not None:
            gone = contributions.remove(
                self._map.halves, self._backend, old, seen.n_a, self._layout, self._epoch, counts=share.counts
            )
            there = int(share.join(gone)[0].sum())
            done.revisits += n
        contribution = contributions.insert(
            self._map.halves, self._backend, samples, weighed, share.own(inlier), seen.noise, self._map.points,
            seen.n_a, self._settings.minimum_weight, self._layout, strength, self._epoch, self.frame,
            counts=share.counts,
        )  # fmt: skip
        done.held += n - there
        done.particles_seen += n if old is None else 0
        done.image_visits += n
        done.step += 1
        done.temperature = temperature
        result = replace(result, inlier=None if searching else inlier)
        self._progress.recent = Recent(
            effective_sample_size=float(result.effective_sample_size.mean()),
            coarse_entropy=self._progress.annealer.entropy,
            evaluations_per_image=result.evaluations / n,
            log_evidence=float(result.log_evidence.mean()),
            inlier_share=float("nan") if searching else float(inlier.mean()),
            step_size=self._map.halves.step_size,
        )
        self._progress.move_on(self._progress.recent.log_evidence if old is None else None)
        if self._progress.update_due:
            self._map.update()
        return result, contribution

    def _start_from_random_poses(
        self, observations: Observations, share: Share, n_a: int, rng: np.random.Generator
    ) -> None:
        """Make the first map: the first batch backprojected at random poses, then forgotten again."""
        everything = slice(0, len(observations.group))
        inverse_noise = self._backend.to_device(self._images.noise.inverse(observations.group))
        weighed = self._poses.weigh(observations, inverse_noise, self._map.points, everything)
        self._map.halves.insert(
            share.of(n_a), random_poses(self._backend, rng, share), weighed, self._map.points,
            self._settings.minimum_weight, sign=float(share.counts),
        )  # fmt: skip
        self._map.update()
        self._map.empty()

    def snapshot(self, group_names: Sequence[str] = ()) -> Snapshot:
        """Return the current maps at the images' own sampling.

        Parameters
        ----------
        group_names : sequence of str
            Of the optics groups, in the session's order.

        Raises
        ------
        NumericalError
            Nothing was folded yet.
        """
        latest = self._map.look()
        groups = self._images.groups(group_names, judged=not self._progress.searching)
        noise = self._images.noise.variance
        return snapshot_of(self._backend, self._geometry, latest, self.status, noise, groups)

    def _finished(self, result: BatchResult, kept: KeptParticles | None, started: float) -> BatchResult:
        """Return the result with what is known only at the end of a step."""
        elapsed = time.perf_counter() - started
        n = len(result.pose_weight)
        self._progress.recent = replace(self._progress.recent, step_seconds=elapsed, images_per_second=n / elapsed)
        return replace(result, step_seconds=elapsed, kept=kept)

    @property
    def status(self) -> EngineStatus:
        """Return where the engine stands."""
        status = self._progress.status(self._geometry, self._map.points.k_max, self._map.halves.fsc)
        symmetry = self._map.symmetry
        return replace(
            status,
            symmetry=symmetry.orientation.group,
            symmetry_reason=symmetry.reason,
            symmetry_gain=symmetry.doubts.mean_gain,
            symmetry_contradicted=symmetry.contradicted,
            symmetry_taken_back=symmetry.taken_back,
        )

    def state(self) -> EngineState:
        """Return everything needed to go on; the arrays are not copied."""
        map_arrays, map_scalars = self._map.state()
        image_arrays, image_scalars = self._images.state()
        return EngineState({**map_arrays, **image_arrays}, {**map_scalars, **image_scalars, **self._progress.state()})

    def restore(self, state: EngineState) -> None:
        """Take up a state made by `state`."""
        self._images.restore(state.arrays, state.scalars)
        self._progress.restore(state.scalars)
        self._map.restore(state.arrays, state.scalars)


def _stream(seed: tuple[int, int], step: int) -> NDArray[np.uint64]:
    """Return a counter-based generator's key: one stream a start and step."""
    return np.array([seed[0], seed[1] << 48 | step], np.uint64)
