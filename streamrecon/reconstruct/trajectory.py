"""One reconstruction from one random start: ab initio, then refinement.

Each particle is used once; memory does not grow with their number. It composes what its neighbours do: poses from
the annealed search and importance sampling, online EM on two half-sets, and a band that follows their FSC.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.errors import NumericalError
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.shells import first_shell_below, resolution_from_fsc
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry, Observations
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.amplitude import AmplitudeScale
from streamrecon.reconstruct.annealing import Annealer
from streamrecon.reconstruct.extent import join_shells
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.health import Health, junk_log_evidence
from streamrecon.reconstruct.mapping import resize_volume
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.stages import Stages

_Fields = TypeVar("_Fields", "_Counters", "_Recent", Stages)
FSC_THRESHOLD = 0.143
_GROWTH_THRESHOLD = 0.5
_REFINEMENT_MARGIN = 2  # an honest FSC needs less margin
_HAND_OVER_FSC = 0.8  # shells of the common map that start the halves: those that noise did not shape
_GROWTH_MARGIN = 3  # shells beyond the FSC's fall that still hold something to align to


@dataclass(frozen=True)
class _Recent:
    """The part of `EngineStatus` that the latest batch decides."""

    effective_sample_size: float = 0.0
    coarse_entropy: float = 0.0
    step_seconds: float = 0.0
    images_per_second: float = 0.0
    evaluations_per_image: float = 0.0
    log_evidence: float = 0.0
    inlier_share: float = float("nan")


@dataclass
class _Counters:
    """What has been done so far; part of the saved state as it is."""

    particles_seen: int = 0
    image_visits: int = 0
    step: int = 0
    last_update: int = 0
    last_growth: int = 0
    temperature: float = 1.0


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

    """

    def __init__(
        self, settings: EngineSettings, geometry: ImageGeometry, k_limit: int, backend: Backend, seed: tuple[int, int]
    ) -> None:
        self._settings = settings
        self._geometry = geometry
        self._k_limit = k_limit
        self._backend = backend
        self._seed = seed
        self._points = half_plane_points(min(settings.start_shells, k_limit))
        self._poses = PoseEstimator(settings, geometry, backend)
        self._halves = HalfMaps(backend, geometry, self._points.k_max)
        self._annealer = Annealer(settings.settle_images, self._poses.cells.n_cells)
        self._stages = Stages()
        self._noise = NoiseModel(0, geometry.box_size // 2 + 1)
        self._health = Health()
        self._amplitude = AmplitudeScale()
        self._done = _Counters()
        self._recent = _Recent()
        self._volumes: tuple[Array, Array] | None = None

    @property
    def settled_at(self) -> int:
        """Particles seen when the search settled; -1 before."""
        return self._annealer.settled_at

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self._stages.name

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
        n, done, settings = len(batch), self._done, self._settings
        rng = np.random.Generator(np.random.Philox(key=_stream(self._seed, done.step)))
        observations = self._observe(batch, group)
        if self._halves.latest is None:
            self._start_from_random_poses(observations, n_a, rng)
        inverse_noise = self._backend.to_device(self._noise.inverse(group))
        histogram = self._poses.probe(observations, inverse_noise)
        temperature = self._annealer.temperature(histogram, n, done.particles_seen)
        samples, weighed = self._poses.sample(observations, inverse_noise, self._points, temperature, n_a, rng)
        if not np.isfinite(self._backend.to_host(samples.log_evidence)).all():
            raise NumericalError(
                f"batch of {n} particles with {batch.identities[0]}: a likelihood is not finite; "
                "check these images for extreme values"
            )
        inlier = self._judge(observations, samples, inverse_noise, temperature)
        self._learn(observations, samples, weighed, inlier, n_a)
        to_host, to_device = self._backend.to_host, self._backend.to_device
        self._health.update(
            group, to_host(samples.log_evidence), to_host(samples.effective_sample_size), inlier, new=True
        )
        weighed *= to_device(inlier)[:, None]
        self._halves.forget(1.0 - min(0.5, n / self._window()))
        self._halves.insert(n_a, samples, weighed, self._points, settings.minimum_weight)
        done.particles_seen += n
        done.image_visits += n
        done.step += 1
        done.temperature = temperature
        self._move_on()
        due = settings.update_images if self._annealer.settled else 1
        if done.particles_seen - done.last_update >= due:
            self._update_map()
        return self._result(samples, inlier, time.perf_counter() - started)

    @property
    def _judging(self) -> bool:
        """Whether the map is good enough to tell images that it does not explain."""
        return self._stages.name != "searching"

    def _judge(
        self, observations: Observations, samples: PoseSamples, inverse_noise: Array, temperature: float
    ) -> NDArray[np.float32]:
        """Return each image's probability of being explained by the map; 1 while nobody can tell."""
        if not self._judging or temperature > 1.0:
            return np.ones(len(samples.log_evidence), np.float32)
        to_host = self._backend.to_host
        counts = np.bincount(self._points.shell, minlength=self._points.k_max + 1)
        junk = junk_log_evidence(to_host(observations.power), to_host(inverse_noise), counts, observations.mask_fill)
        return self._health.inlier_probability(to_host(samples.log_evidence), junk)

    def _learn(
        self, observations: Observations, samples: PoseSamples, weighed: Array, inlier: NDArray[np.float32], n_a: int
    ) -> None:
        """Let noise and amplitudes follow what a batch's best poses leave unexplained."""
        residual = self._poses.residual_power(observations, samples, self._points, n_a)
        self._noise.update(observations.group, residual, observations.mask_fill, inlier)
        if self._amplitude.needed and self._judging:
            shells = first_shell_below(self._halves.fsc, _GROWTH_THRESHOLD)
            match, power = self._poses.amplitude_sums(weighed, samples, self._points, n_a, shells)
            used = self._amplitude.scale[observations.group]
            self._amplitude.update(observations.group, inlier * match / used, inlier * power / used**2)

    def _observe(self, batch: ParticleBatch, group: NDArray[np.int32]) -> Observations:
        """Prepare a batch; an optics group's first images start its noise spectrum."""
        table = batch.table
        step = np.array([1.0 / (g.box_size * g.pixel_size_angstrom) for g in table.optics_groups], np.float32)
        observations = self._poses.preparer.prepare(
            np.ascontiguousarray(batch.images, np.float32),
            table.ctf_coefficients(),
            step[table.optics_group_index],
            group,
            self._points,
        )
        finite = np.asarray(np.isfinite(observations.power).all(axis=1))
        if not finite.all():
            bad = [name for name, good in zip(batch.identities, finite, strict=True) if not good]
            raise NumericalError(
                f"{len(bad)} particles have a power spectrum that is not finite, the first is {bad[0]}; "
                "leave them out, or rescale the images to ordinary values"
            )
        self._noise.add_groups(int(group.max()) + 1)
        for g in np.unique(group):
            if self._noise.is_new(int(g)):
                rows = group == g
                self._noise.update(group[rows], observations.power[rows], observations.mask_fill)
        self._amplitude.add_groups(int(group.max()) + 1)
        return self._scaled(observations)

    def _scaled(self, observations: Observations) -> Observations:
        """Return the observations with each group's amplitude in its CTF."""
        if not self._amplitude.needed:
            return observations
        scale = self._amplitude.scale[observations.group].astype(np.float32)[:, None]
        return replace(observations, ctf=observations.ctf * scale, ring_ctf=observations.ring_ctf * scale)

    def _start_from_random_poses(self, observations: Observations, n_a: int, rng: np.random.Generator) -> None:
        """Make the first map: the first batch backprojected at random poses, then forgotten again."""
        n = len(observations.group)
        to_device = self._backend.to_device
        inverse_noise = to_device(self._noise.inverse(observations.group))
        weighed = self._poses.weigh(observations, inverse_noise, self._points, slice(0, n))
        random = PoseSamples(
            rotation=to_device(random_rotations(rng, n)[:, None].astype(np.float32)),
            shift=to_device(np.zeros((n, 1, 2), np.float32)),
            weight=to_device(np.ones((n, 1), np.float32)),
            log_evidence=np.zeros(n, np.float32),
            effective_sample_size=np.ones(n, np.float32),
            best=np.zeros(n, np.int32),
            evaluations=0,
        )
        self._halves.insert(n_a, random, weighed, self._points, self._settings.minimum_weight)
        self._update_map()
        self._halves.forget(0.0)

    def _window(self) -> float:
        """Images that the running sums remember: few while poses still change, ever more once settled."""
        s = self._settings
        if self._stages.name == "searching":
            return s.search_window_images
        if self._stages.name == "settled":
            return max(
                s.settled_window_images, s.window_growth * (self._done.particles_seen - self._annealer.settled_at)
            )
        since = self._done.particles_seen - self._stages.refining_since
        return max(s.settled_window_images, s.refinement_window_growth * since)

    def _move_on(self) -> None:
        """Change stage where the measured state says so; `_update_map` decides the hand-over to refinement."""
        entropy = self._annealer.entropy
        if self._annealer.settled:
            self._stages.settle(entropy)
        if self._stages.note_entropy(entropy):
            self._stages.search_again(entropy)
            self._annealer.reopen()

    def _update_map(self) -> None:
        stages = self._stages
        self._done.last_update = self._done.particles_seen
        if stages.name == "refining" and not stages.split:
            if self._done.particles_seen - stages.refining_since < self._settings.settled_window_images:
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
        self._halves.forget(0.0)

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
        s, k_max = self._settings, self._points.k_max
        since = self._done.particles_seen - self._done.last_growth
        allowed = since // s.settled_images_per_shell
        if self._stages.name == "searching":
            allowed = min(1, since // s.images_per_shell)
        if self._stages.split:
            wanted = first_shell_below(self._halves.fsc, FSC_THRESHOLD) + _REFINEMENT_MARGIN
        else:
            wanted = first_shell_below(self._halves.fsc, _GROWTH_THRESHOLD) + _GROWTH_MARGIN
        wanted = min(max(wanted, s.start_shells), self._k_limit)
        chosen = min(max(wanted, k_max - allowed), k_max + allowed)
        if chosen != k_max:
            self._points = half_plane_points(chosen)
            self._done.last_growth = self._done.particles_seen
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
        # solved afresh, for the particles since the last update; the map in use stays as it is, so that
        # looking at a reconstruction does not change it
        latest = self._halves.latest
        collecting = self._stages.name == "refining" and not self._stages.split
        if self._done.particles_seen > self._done.last_update and not collecting:
            latest = self._halves.peek(self._points.k_max)
        g, to_host = self._geometry, self._backend.to_host
        volume, half_a, half_b = (
            resize_volume(to_host(v), g.box_size) for v in (latest.volume, latest.half_a, latest.half_b)
        )
        fsc = np.zeros(g.box_size // 2 + 1, np.float32)
        fsc[: len(latest.fsc)] = latest.fsc
        return Snapshot(
            volume=volume,
            half_a=half_a,
            half_b=half_b,
            fsc=fsc,
            voxel_size_angstrom=g.pixel_size_angstrom,
            resolution_angstrom=resolution_from_fsc(latest.fsc, g.box_size, g.pixel_size_angstrom, FSC_THRESHOLD),
            fsc_threshold=FSC_THRESHOLD,
            status=self.status,
            noise_variance=self._noise.variance.copy(),
            optics_groups=self._health.groups(group_names, self._amplitude.scale, judged=self._judging),
        )

    def _result(self, samples: PoseSamples, inlier: NDArray[np.float32], elapsed: float) -> BatchResult:
        rotation, shift = samples.best_pose(self._backend)
        weight = self._backend.pick(samples.weight, samples.best)
        to_host = self._backend.to_host
        result = BatchResult(
            rotation=to_host(rotation),
            shift_angstrom=to_host(shift) * np.float32(self._geometry.pixel_size_angstrom),
            pose_weight=to_host(weight),
            effective_sample_size=to_host(samples.effective_sample_size),
            log_evidence=to_host(samples.log_evidence),
            evaluations=samples.evaluations,
            step_seconds=elapsed,
            inlier=inlier if self._judging else None,
        )
        n = len(weight)
        self._recent = _Recent(
            effective_sample_size=float(result.effective_sample_size.mean()),
            coarse_entropy=self._annealer.entropy,
            step_seconds=elapsed,
            images_per_second=n / elapsed,
            evaluations_per_image=result.evaluations / n,
            log_evidence=float(result.log_evidence.mean()),
            inlier_share=float(inlier.mean()) if self._judging else float("nan"),
        )
        return result

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
        health_arrays, health_scalars = self._health.state()
        arrays = {
            **half_arrays,
            **health_arrays,
            **self._amplitude.state(),
            "noise_variance": self._noise.variance,
            "noise_images": self._noise.images,
        }
        if self._volumes is not None:
            to_host = self._backend.to_host
            arrays |= {"reference_a": to_host(self._volumes[0]), "reference_b": to_host(self._volumes[1])}
        scalars = {
            **half_scalars,
            **health_scalars,
            "k_max": self._points.k_max,
            "annealing_progress": self._annealer.progress,
            "settled_at": self._annealer.settled_at,
            **_with_prefix("done_", self._done),
            **_with_prefix("recent_", self._recent),
            **_with_prefix("stage_", self._stages),
        }
        return EngineState(arrays, scalars)

    def restore(self, state: EngineState) -> None:
        """Take up a state made by `state`."""
        s, arrays = state.scalars, state.arrays
        self._noise.variance = np.array(arrays["noise_variance"], np.float64)
        self._noise.images = np.array(arrays["noise_images"], np.float64)
        self._health.restore(arrays, s)
        self._amplitude.restore(arrays)
        self._points = half_plane_points(int(s["k_max"]))
        self._done = _from_prefix(_Counters, "done_", s)
        self._recent = _from_prefix(_Recent, "recent_", s)
        self._stages = _from_prefix(Stages, "stage_", s)
        self._annealer.progress, self._annealer.settled_at = float(s["annealing_progress"]), int(s["settled_at"])
        self._annealer.entropy = self._recent.coarse_entropy
        self._halves.restore(arrays, s)
        if "reference_a" in arrays:
            first, second = (self._backend.to_device(arrays[f"reference_{h}"]) for h in ("a", "b"))
            self._take_up((first, second if self._stages.split else first))


def _stream(seed: tuple[int, int], step: int) -> NDArray[np.uint64]:
    """Return a counter-based generator's key: one stream a start and step."""
    return np.array([seed[0], seed[1] << 48 | step], np.uint64)


def _with_prefix(prefix: str, values: _Counters | _Recent | Stages) -> dict[str, int | float | str]:
    return {prefix + name: value for name, value in asdict(values).items()}


def _from_prefix(kind: type[_Fields], prefix: str, scalars: Mapping[str, int | float | str]) -> _Fields:
    """Make a dataclass of plain fields from scalars written by `_with_prefix`; JSON may have turned 1.0 into 1."""
    fresh = kind()
    return kind(**{f.name: type(getattr(fresh, f.name))(scalars[prefix + f.name]) for f in fields(kind)})
