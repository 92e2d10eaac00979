"""One reconstruction from one random start: ab initio, then refinement.

Particles are folded when they come, and may be visited again later. It composes what its neighbours do: poses from
the annealed search and importance sampling, online EM on two half-sets, and a band that follows their FSC.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.shells import first_shell_below, resolution_from_fsc
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry, Observations
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct import contributions
from streamrecon.reconstruct.annealing import Annealer
from streamrecon.reconstruct.band import FSC_THRESHOLD, GROWTH_THRESHOLD, choose_band
from streamrecon.reconstruct.counters import Counters, Recent, from_prefix, with_prefix
from streamrecon.reconstruct.extent import join_shells
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.image_model import ImageModel
from streamrecon.reconstruct.kept import Contribution, KeptLayout, KeptParticles
from streamrecon.reconstruct.mapping import PriorChoice
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.report import batch_result, random_poses, snapshot_of
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.stages import Stages

_HAND_OVER_FSC = 0.8  # shells of the common map that start the halves: those that noise did not shape
_SPLIT_SHARE = 0.9  # of all particles, where there are fewer than a window of them


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
    ) -> None:
        self._settings = settings
        self._geometry = geometry
        self._k_limit = k_limit
        self._backend = backend
        self._seed = seed
        self._keep = keep
        self._layout = KeptLayout(k_limit, settings.samples)
        self._points = half_plane_points(min(settings.start_shells, k_limit))
        self._poses = PoseEstimator(settings, geometry, backend)
        prior = PriorChoice(settings.prior, settings.non_negative, settings.solvent_flattening)
        self._halves = HalfMaps(backend, geometry, self._points.k_max, prior)
        self._annealer = Annealer(settings.settle_images, self._poses.cells.n_cells)
        self._stages = Stages()
        self._images = ImageModel(backend, geometry.box_size)
        self._done = Counters()
        self._recent = Recent()
        self._volumes: tuple[Array, Array] | None = None

    @property
    def settled_at(self) -> int:
        """Image visits when the search settled; -1 before."""
        return self._annealer.settled_at

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self._stages.name

    @property
    def split(self) -> bool:
        """Whether each half is posed against its own map."""
        return self._stages.split

    @property
    def frame(self) -> int:
        """Which frame of reference poses found now are in: those found in another must be searched anew."""
        return self._seed[1] << 32 | self._done.frame

    @property
    def _epoch(self) -> int:
        return self._seed[1] << 32 | self._done.epoch

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
        images = np.ascontiguousarray(batch.images, np.float32)
        band = half_plane_points(self._layout.band) if self._keep else None
        observations = self._poses.preparer.prepare(images, coefficients, step, group, self._points, band)
        self._images.meet(observations, batch.identities)
        observations = self._images.scaled(observations)
        rng = self._random()
        if self._halves.latest is None:
            self._start_from_random_poses(observations, n_a, rng)
        inverse_noise = self._backend.to_device(self._images.noise.inverse(group))
        temperature = self._temperature(observations, inverse_noise)
        samples, weighed = self._poses.sample(observations, inverse_noise, self._points, temperature, n_a, rng)
        result, contribution = self._take_in(observations, inverse_noise, samples, weighed, temperature, n_a, None)
        kept = contributions.kept_of(observations, coefficients, step, n_a, contribution)
        return self._finished(result, kept, started)

    def revisit(self, kept: KeptParticles, n_a: int, *, search: bool) -> BatchResult:
        """Look at particles again: their new poses replace the old ones in the sums.

        Parameters
        ----------
        kept : KeptParticles
            Sorted: the first ``n_a`` belong to half a. What they were handed out with last.
        search : bool
            Search everywhere, beside the poses found earlier; else only around those.

        Raises
        ------
        NumericalError
            A likelihood is not finite; the reconstruction is as it was before.
        """
        started = time.perf_counter()
        observations = self._poses.preparer.recall(
            kept.images,
            kept.ctf_coefficients,
            kept.frequency_step,
            kept.group,
            self._points,
            half_plane_points(self._layout.band),
        )
        observations = self._images.scaled(observations)
        rng = self._random()
        inverse_noise = self._backend.to_device(self._images.noise.inverse(kept.group))
        modes = contributions.modes_of(kept.contribution, self._backend)
        temperature = 1.0
        if search:
            temperature = self._temperature(observations, inverse_noise)
            samples, weighed = self._poses.sample(
                observations, inverse_noise, self._points, temperature, n_a, rng, modes
            )
        else:
            samples, weighed = self._poses.resample(observations, inverse_noise, self._points, modes, n_a, rng)
        result, contribution = self._take_in(observations, inverse_noise, samples, weighed, temperature, n_a, kept)
        new = contributions.kept_of(observations, kept.ctf_coefficients, kept.frequency_step, n_a, contribution)
        return self._finished(result, new, started)

    def _random(self) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=_stream(self._seed, self._done.step)))

    def _temperature(self, observations: Observations, inverse_noise: Array) -> float:
        """Return the annealing's temperature for a batch, and let its clock run."""
        histogram = self._poses.probe(observations, inverse_noise)
        return self._annealer.temperature(histogram, len(observations.group), self._done.image_visits)

    def _take_in(
        self,
        observations: Observations,
        inverse_noise: Array,
        samples: PoseSamples,
        weighed: Array,
        temperature: float,
        n_a: int,
        old: KeptParticles | None,
    ) -> tuple[BatchResult, Contribution]:
        """Put a batch's posteriors into the sums, in the place of old ones if there are, and move on."""
        n, done, searching = len(observations.group), self._done, self._stages.name == "searching"
        if not np.isfinite(self._backend.to_host(samples.log_evidence)).all():
            raise NumericalError(
                f"batch of {n} particles: a likelihood is not finite; check these images for extreme values"
            )
        inlier = np.ones(n, np.float32)
        if not searching and temperature <= 1.0:
            inlier = self._images.judge(observations, samples, inverse_noise, self._points)
        amplitude = self._images.amplitude(observations.group)
        shells = 0 if searching else first_shell_below(self._halves.fsc, GROWTH_THRESHOLD)
        self._images.learn(
            self._poses, observations, samples, weighed, inlier, self._points, n_a,
            amplitude_shells=shells, new=old is None,
        )  # fmt: skip
        if old is None or searching:
            self._halves.forget(1.0 - min(0.5, n / self._window()))
        there = 0
        if old is not None:
            there = contributions.remove(self._halves, self._backend, old, n_a, self._layout, self._epoch)
            done.revisits += n
        contribution = contributions.insert(
            self._halves, self._backend, samples, weighed, inlier, inverse_noise, self._points, n_a,
            self._settings.minimum_weight, self._layout, amplitude, self._epoch, self.frame,
        )  # fmt: skip
        done.held += n - there
        done.particles_seen += n if old is None else 0
        done.image_visits += n
        done.step += 1
        done.temperature = temperature
        result = batch_result(self._backend, self._geometry, samples, None if searching else inlier)
        self._recent = Recent(
            effective_sample_size=float(result.effective_sample_size.mean()),
            coarse_entropy=self._annealer.entropy,
            evaluations_per_image=samples.evaluations / n,
            log_evidence=float(result.log_evidence.mean()),
            inlier_share=float("nan") if searching else float(inlier.mean()),
        )
        self._move_on(self._recent.log_evidence if old is None else None)
        due = self._settings.update_images if self._annealer.settled else 1
        if done.image_visits - done.last_update >= due:
            self._update_map()
        return result, contribution

    def _start_from_random_poses(self, observations: Observations, n_a: int, rng: np.random.Generator) -> None:
        """Make the first map: the first batch backprojected at random poses, then forgotten again."""
        n = len(observations.group)
        inverse_noise = self._backend.to_device(self._images.noise.inverse(observations.group))
        weighed = self._poses.weigh(observations, inverse_noise, self._points, slice(0, n))
        random = random_poses(self._backend, rng, n)
        self._halves.insert(n_a, random, weighed, self._points, self._settings.minimum_weight)
        self._update_map()
        self._empty()

    def _empty(self) -> None:
        """Forget everything that was gathered."""
        self._halves.forget(0.0)
        self._done.epoch += 1
        self._done.held = self._done.revisits = 0

    def _window(self) -> float:
        """Images that the running sums remember: few while poses still change, ever more once settled."""
        s, done = self._settings, self._done
        if self._stages.name == "searching":
            return s.search_window_images
        if self._stages.name == "settled":
            return max(s.settled_window_images, s.window_growth * (done.image_visits - self._annealer.settled_at))
        if done.revisits:
            return np.inf  # what is coarse in the sums is replaced, it need not fade
        return max(s.settled_window_images, s.refinement_window_growth * done.held)

    def _move_on(self, log_evidence: float | None) -> None:
        """Change stage where the measured state says so; `_update_map` decides the hand-over to refinement.

        Only new images (of which ``log_evidence`` is known) can contradict the map: revisits begin with the worst.
        """
        entropy = self._annealer.entropy
        if self._annealer.settled and self._stages.name == "searching":
            self._stages.settle(entropy)
            self._done.frame += 1  # poses of the search are not worth starting from
        if log_evidence is None:
            return
        if self._stages.note_entropy(entropy) or self._stages.note_evidence(log_evidence):
            self._stages.search_again()
            self._annealer.reopen()
            self._done.frame += 1

    def _update_map(self) -> None:
        stages, done = self._stages, self._done
        done.last_update = done.image_visits
        if stages.name == "refining" and not stages.split:
            if done.held < min(self._settings.settled_window_images, _SPLIT_SHARE * done.particles_seen):
                return  # the halves' own maps are not yet better than what they are posed against
            stages.split = True
        self._halves.solve(self._points.k_max)
        missing = self._choose_band()
        if stages.note_band(missing):
            self._hand_over()
            return
        volumes = (self._halves.common_reference(),) * 2
        if stages.split:
            volumes = self._halves.half_references(
                join_shells(self._geometry.box_size, self._geometry.pixel_size_angstrom)
            )
        self._take_up(volumes)

    def _hand_over(self) -> None:
        """Begin refinement: halves posed against the common map's surest shells until they have maps of their own."""
        self._stages.hand_over(self._done.particles_seen, self._points.k_max)
        shells = first_shell_below(self._halves.fsc, _HAND_OVER_FSC) - 1
        volume = self._halves.low_passed(max(shells, self._settings.start_shells))
        self._take_up((volume, volume))
        self._empty()

    def _take_up(self, volumes: tuple[Array, Array]) -> None:
        """Make these the maps that the images of half a and half b are posed against."""
        # the search reads all its rings, also those the map does not reach yet: they must be there, as zeros
        reach = max(self._points.k_max, self._poses.search_rings)
        self._volumes = volumes
        self._poses.set_maps(self._halves.cubes(volumes, reach), self._points.k_max)

    def _choose_band(self) -> int:
        """Let k_max follow the half-set FSC, one shell at a time and not too often while poses still change.

        Returns how many shells it would have liked to grow.
        """
        k_max, done = self._points.k_max, self._done
        since = done.image_visits - done.last_growth
        chosen, wanted = choose_band(self._settings, self._stages, self._halves.fsc, k_max, self._k_limit, since)
        if chosen != k_max:
            self._points = half_plane_points(chosen)
            done.last_growth = done.image_visits
        return wanted - k_max

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
        if self._halves.latest is None:
            raise NumericalError("no map yet: fold at least one batch first")
        # solved afresh, for the images since the last update; the map in use stays as it is, so that
        # looking at a reconstruction does not change it
        latest = self._halves.latest
        collecting = self._stages.name == "refining" and not self._stages.split
        if self._done.image_visits > self._done.last_update and not collecting:
            latest = self._halves.peek(self._points.k_max)
        groups = self._images.groups(group_names, judged=self._stages.name != "searching")
        noise = self._images.noise.variance
        return snapshot_of(self._backend, self._geometry, latest, self.status, noise, groups)

    def _finished(self, result: BatchResult, kept: KeptParticles | None, started: float) -> BatchResult:
        """Return the result with what is known only at the end of a step."""
        elapsed = time.perf_counter() - started
        n = len(result.pose_weight)
        self._recent = replace(self._recent, step_seconds=elapsed, images_per_second=n / elapsed)
        return replace(result, step_seconds=elapsed, kept=kept)

    @property
    def status(self) -> EngineStatus:
        """Return where the engine stands."""
        stage = self._stages.name if self._done.particles_seen else "waiting"
        g = self._geometry
        return EngineStatus(
            stage=stage,
            particles_seen=self._done.particles_seen,
            image_visits=self._done.image_visits,
            step=self._done.step,
            k_max=self._points.k_max,
            temperature=self._done.temperature,
            resolution_angstrom=resolution_from_fsc(self._halves.fsc, g.box_size, g.pixel_size_angstrom, FSC_THRESHOLD),
            fsc_kind="gold_standard" if self._stages.split else "common",
            stage_reason=self._stages.reason,
            **asdict(self._recent),
        )

    def state(self) -> EngineState:
        """Return everything needed to go on; the arrays are not copied."""
        half_arrays, half_scalars = self._halves.state()
        image_arrays, image_scalars = self._images.state()
        arrays: dict[str, Array] = {**half_arrays, **image_arrays}
        if self._volumes is not None:
            to_host = self._backend.to_host
            arrays |= {"reference_a": to_host(self._volumes[0]), "reference_b": to_host(self._volumes[1])}
        scalars = {
            **half_scalars,
            **image_scalars,
            "k_max": self._points.k_max,
            "annealing_progress": self._annealer.progress,
            "settled_at": self._annealer.settled_at,
            **with_prefix("done_", self._done),
            **with_prefix("recent_", self._recent),
            **with_prefix("stage_", self._stages),
        }
        return EngineState(arrays, scalars)

    def restore(self, state: EngineState) -> None:
        """Take up a state made by `state`."""
        s, arrays = state.scalars, state.arrays
        self._images.restore(arrays, s)
        self._points = half_plane_points(int(s["k_max"]))
        self._done = from_prefix(Counters, "done_", s)
        self._recent = from_prefix(Recent, "recent_", s)
        self._stages = from_prefix(Stages, "stage_", s)
        self._annealer.progress, self._annealer.settled_at = float(s["annealing_progress"]), int(s["settled_at"])
        self._annealer.entropy = self._recent.coarse_entropy
        self._halves.restore(arrays, s)
        if "reference_a" in arrays:
            first, second = (self._backend.to_device(arrays[f"reference_{h}"]) for h in ("a", "b"))
            self._take_up((first, second if self._stages.split else first))


def _stream(seed: tuple[int, int], step: int) -> NDArray[np.uint64]:
    """Return a counter-based generator's key: one stream a start and step."""
    return np.array([seed[0], seed[1] << 48 | step], np.uint64)
