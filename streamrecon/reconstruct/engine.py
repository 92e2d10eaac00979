"""The engine: folds batches of particles into one running ab initio reconstruction.

Each particle is used once; memory does not grow with their number. It composes what its neighbours do: poses from
the annealed search and importance sampling, online EM on two half-sets, and a band that follows their FSC.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.errors import CheckpointIncompatible, NumericalError
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.shells import first_shell_below, resolution_from_fsc
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry, Observations
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.annealing import Annealer
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.mapping import resize_volume
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.results import BatchResult, EngineState, EngineStatus, Snapshot
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.state import pack_state, unpack_groups

FSC_THRESHOLD = 0.143
_GROWTH_THRESHOLD = 0.5
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


def geometry_for(settings: EngineSettings, box_size: int, pixel_size_angstrom: float) -> ImageGeometry:
    """Return the geometry that the settings mean for a box: 0 stands for a share of the box."""
    diameter = settings.particle_diameter_angstrom / pixel_size_angstrom or 0.8 * box_size
    shift = settings.shift_range_angstrom / pixel_size_angstrom or 0.0625 * box_size
    return ImageGeometry(box_size, pixel_size_angstrom, min(diameter, 0.95 * box_size) / 2, shift)


def band_limit(settings: EngineSettings, box_size: int, pixel_size_angstrom: float) -> int:
    """Return the last shell the reconstruction may ever use."""
    limit = int(0.95 * box_size / 2)
    if settings.maximum_resolution_angstrom > 0:
        limit = min(limit, int(box_size * pixel_size_angstrom / settings.maximum_resolution_angstrom))
    return max(limit, settings.start_shells)


class Engine:
    """Streaming ab initio reconstruction.

    Parameters
    ----------
    settings : EngineSettings
    box_size : int, pixels, even
    pixel_size_angstrom : float
    backend : Backend
    seed : int
        Same seed, same batches in the same order: the same map, bit for bit.

    Raises
    ------
    NumericalError
        The box is odd or too small.
    """

    def __init__(
        self,
        settings: EngineSettings,
        box_size: int,
        pixel_size_angstrom: float,
        backend: Backend,
        seed: int = 0,
    ) -> None:
        if box_size % 2 or box_size < 32:
            raise NumericalError(
                f"box size {box_size} px: expected an even number of at least 32; crop or pad the stacks"
            )
        self.settings = settings
        self.geometry = geometry_for(settings, box_size, pixel_size_angstrom)
        self._backend = backend
        self._seed = seed
        self._k_limit = band_limit(settings, box_size, pixel_size_angstrom)
        self._points = half_plane_points(min(settings.start_shells, self._k_limit))
        self._poses = PoseEstimator(settings, self.geometry, backend)
        self._halves = HalfMaps(backend, self.geometry, self._points.k_max)
        self._annealer = Annealer(settings.settle_images, self._poses.cells.n_cells)
        self._noise = NoiseModel(0, box_size // 2 + 1)
        self._groups: list[OpticsGroup] = []
        self._particles_seen = 0
        self._image_visits = 0
        self._step = 0
        self._last_update = 0
        self._last_growth = 0
        self._temperature = 1.0
        self._recent = _Recent()

    def fold(self, batch: ParticleBatch) -> BatchResult:
        """Fold a batch into the running reconstruction; each particle counts once.

        Raises
        ------
        NumericalError
            An image or a likelihood is not finite; the reconstruction is as it was before.
        """
        started = time.perf_counter()
        n = len(batch)
        rng = np.random.Generator(np.random.Philox(key=np.array([self._seed, self._step], np.uint64)))
        observations = self._observe(batch)
        if self._halves.cube is None:
            self._start_from_random_poses(observations, batch.half, rng)
        inverse_noise = self._noise.inverse(observations.group)
        histogram = self._poses.probe(observations, inverse_noise)
        temperature = self._annealer.temperature(histogram, n, self._particles_seen)
        samples, weighed = self._poses.sample(observations, inverse_noise, self._points, temperature, rng)
        if not np.isfinite(samples.log_evidence).all():
            raise NumericalError(
                f"batch of {n} particles starting with {batch.identities[0]}: a likelihood is not finite; "
                "check these images for extreme values"
            )
        residual = self._poses.residual_power(observations, samples, self._points)
        self._noise.update(observations.group, residual, observations.mask_fill)
        self._halves.forget(1.0 - min(0.5, n / self._window()))
        self._halves.insert(batch.half, samples, weighed, self._points, self.settings.minimum_weight)
        self._particles_seen += n
        self._image_visits += n
        self._step += 1
        self._temperature = temperature
        due = self.settings.update_images if self._annealer.settled else 1
        if self._particles_seen - self._last_update >= due:
            self._update_map()
        return self._result(samples, time.perf_counter() - started)

    def _observe(self, batch: ParticleBatch) -> Observations:
        """Prepare a batch; an optics group's first images start its noise spectrum."""
        table = batch.table
        group = self._number_groups(table.optics_groups)[table.optics_group_index]
        step = np.array([1.0 / (g.box_size * g.pixel_size_angstrom) for g in table.optics_groups], np.float32)
        observations = self._poses.preparer.prepare(
            self._backend.to_device(np.ascontiguousarray(batch.images, np.float32)),
            table.ctf_coefficients(),
            step[table.optics_group_index],
            group,
            self._points,
        )
        finite = np.asarray(np.isfinite(self._backend.to_host(observations.power)).all(axis=1))
        if not finite.all():
            bad = [name for name, good in zip(batch.identities, finite, strict=True) if not good]
            raise NumericalError(
                f"{len(bad)} particles have a power spectrum that is not finite, the first is {bad[0]}; "
                "leave them out, or rescale the images to ordinary values"
            )
        for g in np.unique(group):
            if self._noise.is_new(int(g)):
                rows = group == g
                self._noise.update(group[rows], observations.power[rows], observations.mask_fill)
        return observations

    def _number_groups(self, groups: tuple[OpticsGroup, ...]) -> NDArray[np.int32]:
        """Number optics groups by what they are, whatever order files list them in."""
        for group in groups:
            if group not in self._groups:
                self._groups.append(group)
        self._noise.add_groups(len(self._groups))
        return np.array([self._groups.index(group) for group in groups], np.int32)

    def _start_from_random_poses(self, observations: Observations, half: Array, rng: np.random.Generator) -> None:
        """Make the first map: the first batch backprojected at random poses, then forgotten again."""
        n = len(half)
        inverse_noise = self._noise.inverse(observations.group)
        weighed = self._poses.weigh(observations, inverse_noise, self._points, slice(0, n))
        random = PoseSamples(
            rotation=random_rotations(rng, n)[:, None].astype(np.float32),
            shift=np.zeros((n, 1, 2), np.float32),
            weight=np.ones((n, 1), np.float32),
            log_evidence=np.zeros(n, np.float32),
            effective_sample_size=np.ones(n, np.float32),
            best=np.zeros(n, np.int32),
            evaluations=0,
        )
        self._halves.insert(half, random, weighed, self._points, self.settings.minimum_weight)
        self._update_map()
        self._halves.forget(0.0)

    def _window(self) -> float:
        """Images that the running sums remember: few while poses still change, ever more once settled."""
        s = self.settings
        if not self._annealer.settled:
            return s.search_window_images
        since = self._particles_seen - self._annealer.settled_at
        return max(s.settled_window_images, s.window_growth * since)

    def _update_map(self) -> None:
        self._halves.solve(self._points.k_max)
        self._last_update = self._particles_seen
        self._choose_band()
        self._take_up_map()

    def _take_up_map(self) -> None:
        """Make the latest map the one that poses are found against."""
        # the search reads all its rings, also those the map does not reach yet: they must be there, as zeros
        reach = max(self._points.k_max, self._poses.search_rings)
        self._poses.set_map(self._halves.make_cube(reach), self._points.k_max)

    def _choose_band(self) -> None:
        """Let k_max follow the half-set FSC; one shell at a time and not too often while poses still change."""
        s, k_max = self.settings, self._points.k_max
        since = self._particles_seen - self._last_growth
        allowed = min(1, since // s.images_per_shell)
        if self._annealer.settled:
            allowed = since // s.settled_images_per_shell
        wanted = first_shell_below(self._halves.fsc, _GROWTH_THRESHOLD) + _GROWTH_MARGIN
        wanted = min(max(wanted, s.start_shells), self._k_limit)
        chosen = min(max(wanted, k_max - allowed), k_max + allowed)
        if chosen != k_max:
            self._points = half_plane_points(chosen)
            self._last_growth = self._particles_seen

    def snapshot(self) -> Snapshot:
        """Return the current maps at the images' own sampling.

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
        if self._particles_seen > self._last_update:
            latest = self._halves.peek(self._points.k_max)
        g, to_host = self.geometry, self._backend.to_host
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
        )

    def _result(self, samples: PoseSamples, elapsed: float) -> BatchResult:
        rotation, shift = samples.best_pose()
        weight = samples.weight[np.arange(len(samples.best)), samples.best]
        to_host = self._backend.to_host
        result = BatchResult(
            rotation=to_host(rotation),
            shift_angstrom=to_host(shift) * np.float32(self.geometry.pixel_size_angstrom),
            pose_weight=to_host(weight),
            effective_sample_size=to_host(samples.effective_sample_size),
            log_evidence=to_host(samples.log_evidence),
            evaluations=samples.evaluations,
            step_seconds=elapsed,
        )
        n = len(weight)
        self._recent = _Recent(
            effective_sample_size=float(result.effective_sample_size.mean()),
            coarse_entropy=self._annealer.entropy,
            step_seconds=elapsed,
            images_per_second=n / elapsed,
            evaluations_per_image=result.evaluations / n,
            log_evidence=float(result.log_evidence.mean()),
        )
        return result

    @property
    def status(self) -> EngineStatus:
        """Return where the engine stands."""
        seen = "settled" if self._annealer.settled else "searching"
        stage = seen if self._particles_seen else "waiting"
        g = self.geometry
        return EngineStatus(
            stage=stage,
            particles_seen=self._particles_seen,
            image_visits=self._image_visits,
            step=self._step,
            k_max=self._points.k_max,
            temperature=self._temperature,
            resolution_angstrom=resolution_from_fsc(self._halves.fsc, g.box_size, g.pixel_size_angstrom, FSC_THRESHOLD),
            fsc_kind="common",
            **asdict(self._recent),
        )

    def state(self) -> EngineState:
        """Return a copy of the state, safe to write while the engine goes on."""
        half_arrays, half_scalars = self._halves.state()
        scalars = {
            **half_scalars,
            "box_size": self.geometry.box_size,
            "pixel_size_angstrom": self.geometry.pixel_size_angstrom,
            "k_max": self._points.k_max,
            "particles_seen": self._particles_seen,
            "image_visits": self._image_visits,
            "step": self._step,
            "temperature": self._temperature,
            "last_update": self._last_update,
            "last_growth": self._last_growth,
            **{f"recent_{name}": value for name, value in asdict(self._recent).items()},
            "annealing_progress": self._annealer.progress,
            "settled_at": self._annealer.settled_at,
        }
        arrays = {**half_arrays, "noise_variance": self._noise.variance, "noise_images": self._noise.images}
        return pack_state(arrays, scalars, self._groups)

    def restore(self, state: EngineState) -> None:
        """Take up a state written by `state`, and go on as if nothing had happened.

        Raises
        ------
        CheckpointIncompatible
            The state belongs to another box or pixel size.
        """
        s = state.scalars
        here = (self.geometry.box_size, self.geometry.pixel_size_angstrom)
        there = (s["box_size"], s["pixel_size_angstrom"])
        if here != there:
            raise CheckpointIncompatible(
                f"the saved state is of box {there[0]} px at {there[1]} A, these particles are {here[0]} px at "
                f"{here[1]} A; start a new output_dir for them"
            )
        self._groups = unpack_groups(state)
        self._noise.variance = np.array(state.arrays["noise_variance"], np.float64)
        self._noise.images = np.array(state.arrays["noise_images"], np.float64)
        self._points = half_plane_points(int(s["k_max"]))
        self._particles_seen, self._image_visits = int(s["particles_seen"]), int(s["image_visits"])
        self._step, self._temperature = int(s["step"]), float(s["temperature"])
        self._last_update = int(s["last_update"])
        self._last_growth = int(s["last_growth"])
        self._annealer.progress, self._annealer.settled_at = (
            float(s["annealing_progress"]),
            int(s["settled_at"]),
        )
        self._recent = _Recent(**{f.name: float(s[f"recent_{f.name}"]) for f in fields(_Recent)})
        self._annealer.entropy = self._recent.coarse_entropy
        self._halves.restore(state.arrays, s)
        if self._halves.latest is not None:
            self._take_up_map()
