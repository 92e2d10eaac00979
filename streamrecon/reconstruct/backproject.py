"""A map from poses that are known already: no search, the same model, accumulators and prior as the engine's."""

from __future__ import annotations

import time

import numpy as np

from streamrecon.compute.backend import Backend
from streamrecon.errors import ManifestMismatch, NumericalError
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.shells import resolution_from_fsc
from streamrecon.inference.importance import PoseSamples
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.band import FSC_THRESHOLD
from streamrecon.reconstruct.extent import band_limit, geometry_for
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.mapping import resize_volume
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.posing import PoseEstimator
from streamrecon.reconstruct.results import EngineStatus, Snapshot
from streamrecon.reconstruct.settings import EngineSettings

_SOLUTIONS = 2  # the first gives the FSC, the second uses it as prior


class GivenPoses:
    """Backprojects batches at the rotations and shifts their tables hold.

    Parameters
    ----------
    settings : EngineSettings
    box_size : int, pixels
    pixel_size_angstrom : float
    backend : Backend
    """

    def __init__(self, settings: EngineSettings, box_size: int, pixel_size_angstrom: float, backend: Backend) -> None:
        self._settings = settings
        self._backend = backend
        self._geometry = geometry_for(settings, box_size, pixel_size_angstrom)
        self._points = half_plane_points(band_limit(settings, box_size, pixel_size_angstrom))
        self._poses = PoseEstimator(settings, self._geometry, backend, masked=False)
        self._halves = HalfMaps(backend, self._geometry, self._points.k_max)
        self._noise = NoiseModel(1, box_size // 2 + 1)
        self._seen = 0
        self._started = time.perf_counter()

    def fold(self, batch: ParticleBatch) -> None:
        """Add a batch.

        Raises
        ------
        ManifestMismatch
            The table holds no poses.
        """
        table = batch.table
        if table.rotation is None:
            raise ManifestMismatch(
                f"{table.stack_names[0]}: expected a rotation for every particle, found none in the particle file; "
                "give a file of a refinement, or let the poses be searched"
            )
        n, g = len(batch), self._geometry
        half = batch.half
        batch = batch.select(np.argsort(half, kind="stable"))
        table = batch.table
        shift = np.zeros((n, 2), np.float32) if table.shift_angstrom is None else table.shift_angstrom
        step = np.full(n, g.frequency_step, np.float32)
        observations = self._poses.preparer.prepare(
            batch.images, table.ctf_coefficients(), step, np.zeros(n, np.int32), self._points
        )
        # one spectrum for all: at given poses it only weighs shells against each other
        self._noise.update(observations.group, observations.power, observations.mask_fill)
        to_device = self._backend.to_device
        inverse_noise = to_device(self._noise.inverse(observations.group))
        weighed = self._poses.weigh(observations, inverse_noise, self._points, slice(0, n))
        samples = PoseSamples(
            rotation=to_device(np.asarray(table.rotation)[:, None].astype(np.float32)),
            shift=to_device((shift / np.float32(g.pixel_size_angstrom))[:, None].astype(np.float32)),
            weight=to_device(np.ones((n, 1), np.float32)),
            log_evidence=np.zeros(n, np.float32),
            effective_sample_size=np.ones(n, np.float32),
            best=np.zeros(n, np.int32),
            evaluations=0,
        )
        self._halves.insert(int(np.count_nonzero(half == 0)), samples, weighed, self._points, 0.0)
        self._seen += n

    def snapshot(self) -> Snapshot:
        """Return the maps.

        Raises
        ------
        NumericalError
            Nothing was folded yet.
        """
        if self._seen == 0:
            raise NumericalError("no map yet: fold at least one batch first")
        for _ in range(_SOLUTIONS):
            latest = self._halves.solve(self._points.k_max)
        g = self._geometry
        resolution = resolution_from_fsc(latest.fsc, g.box_size, g.pixel_size_angstrom, FSC_THRESHOLD)
        seconds = time.perf_counter() - self._started
        fsc = np.zeros(g.box_size // 2 + 1, np.float32)
        fsc[: len(latest.fsc)] = latest.fsc
        volume, half_a, half_b = (
            resize_volume(self._backend.to_host(v), g.box_size) for v in (latest.volume, latest.half_a, latest.half_b)
        )
        status = EngineStatus(
            stage="given_poses",
            particles_seen=self._seen,
            image_visits=self._seen,
            step=0,
            k_max=self._points.k_max,
            temperature=1.0,
            effective_sample_size=1.0,
            coarse_entropy=0.0,
            resolution_angstrom=resolution,
            fsc_kind="given",
            step_seconds=seconds,
            images_per_second=self._seen / seconds,
            evaluations_per_image=0.0,
            log_evidence=0.0,
        )
        return Snapshot(volume, half_a, half_b, fsc, g.pixel_size_angstrom, resolution, FSC_THRESHOLD, status)
