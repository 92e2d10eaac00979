"""Where every method of a comparison begins: the same random map, or the same good one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.fourier.points import half_plane_points
from streamrecon.fourier.polar import polar_grid
from streamrecon.fourier.shells import shell_index_rfft
from streamrecon.inference.observation import ImageGeometry, Preparer
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.backproject import GivenPoses
from streamrecon.reconstruct.collective import ALONE, Share
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.mapping import resize_volume
from streamrecon.reconstruct.noise import NoiseModel
from streamrecon.reconstruct.report import random_poses
from streamrecon.reconstruct.settings import EngineSettings

_RINGS = 4  # nothing is searched here; the preparer makes rings anyway


def random_start(
    batch: ParticleBatch, geometry: ImageGeometry, backend: Backend, k_max: int, seed: int
) -> NDArray[np.float32]:
    """Backproject a batch at random poses, as the streaming engine begins.

    Parameters
    ----------
    batch : ParticleBatch
        The first of the set.
    k_max : int, shells
    seed : int

    Returns
    -------
    ndarray, (box, box, box) float32
    """
    batch = batch.select(np.argsort(batch.half, kind="stable"))
    n = len(batch)
    points = half_plane_points(k_max)
    grid = polar_grid(_RINGS, geometry.particle_radius / geometry.box_size, 4)
    step = np.full(n, geometry.frequency_step, np.float32)
    observed = Preparer(backend, geometry, grid).prepare(
        np.ascontiguousarray(batch.images, np.float32), batch.table.ctf_coefficients(), step, np.zeros(n, np.int32),
        points,
    )  # fmt: skip
    noise = NoiseModel(1, geometry.box_size // 2 + 1)
    noise.update(observed.group, observed.power, observed.mask_fill)
    weighed = backend.weigh(
        observed.real, observed.imaginary, observed.ctf, points.shell, backend.to_device(noise.inverse(observed.group))
    )
    halves = HalfMaps(backend, geometry, k_max)
    poses = random_poses(backend, np.random.default_rng(seed), Share(ALONE, n))
    halves.insert(int(np.count_nonzero(batch.half == 0)), poses, weighed, points, 0.0)
    return resize_volume(backend.to_host(halves.solve(k_max).volume), geometry.box_size)


def map_of_true_poses(
    batches: Iterable[ParticleBatch], geometry: ImageGeometry, backend: Backend
) -> NDArray[np.float32]:
    """Backproject batches at the poses that their tables hold, up to the band limit, (box,)*3 float32."""
    given = GivenPoses(EngineSettings(), geometry.box_size, geometry.pixel_size_angstrom, backend)
    for batch in batches:
        given.fold(batch)
    return given.snapshot().volume


def low_passed(volume: NDArray[np.floating], shells: int) -> NDArray[np.float32]:
    """Return a map with nothing beyond ``shells``, (box,)*3 float32."""
    transform = scipy.fft.rfftn(np.asarray(volume, np.float32))
    transform *= shell_index_rfft(len(volume)) <= shells
    return np.asarray(scipy.fft.irfftn(transform, s=volume.shape), np.float32)
