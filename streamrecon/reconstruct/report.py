"""What a reconstruction hands out, made of what it holds: results of a batch and snapshots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Backend
from streamrecon.fourier.shells import resolution_from_fsc
from streamrecon.geometry.rotation import random_rotations
from streamrecon.inference.importance import PoseSamples
from streamrecon.inference.observation import ImageGeometry
from streamrecon.reconstruct.band import FSC_THRESHOLD
from streamrecon.reconstruct.collective import Share
from streamrecon.reconstruct.mapping import SolvedMap, resize_volume
from streamrecon.reconstruct.results import BatchResult, EngineStatus, GroupHealth, Snapshot


def batch_result(backend: Backend, geometry: ImageGeometry, samples: PoseSamples) -> BatchResult:
    """Return the summary of posteriors; how long it took is not known here, nor who is an inlier."""
    rotation, shift = samples.best_pose(backend)
    to_host = backend.to_host
    return BatchResult(
        rotation=to_host(rotation),
        shift_angstrom=to_host(shift) * np.float32(geometry.pixel_size_angstrom),
        pose_weight=to_host(backend.pick(samples.weight, samples.best)),
        effective_sample_size=to_host(samples.effective_sample_size),
        log_evidence=to_host(samples.log_evidence),
        evaluations=samples.evaluations,
        step_seconds=0.0,
    )


def random_poses(backend: Backend, rng: np.random.Generator, share: Share) -> PoseSamples:
    """Return one random rotation for each of this rank's images, unshifted: what the first map is made of."""
    to_device = backend.to_device
    rotation = share.own(random_rotations(rng, share.n)[:, None].astype(np.float32))
    n = len(rotation)
    return PoseSamples(
        rotation=to_device(rotation),
        shift=to_device(np.zeros((n, 1, 2), np.float32)),
        weight=to_device(np.ones((n, 1), np.float32)),
        log_evidence=np.zeros(n, np.float32),
        effective_sample_size=np.ones(n, np.float32),
        best=np.zeros(n, np.int32),
        evaluations=0,
    )


def snapshot_of(
    backend: Backend,
    geometry: ImageGeometry,
    solved: SolvedMap,
    status: EngineStatus,
    noise_variance: NDArray[np.float64],
    groups: tuple[GroupHealth, ...],
) -> Snapshot:
    """Return a solved map at the images' own sampling, with what belongs to it."""
    box, to_host = geometry.box_size, backend.to_host
    volume, half_a, half_b = (resize_volume(to_host(v), box) for v in (solved.volume, solved.half_a, solved.half_b))
    fsc = np.zeros(box // 2 + 1, np.float32)
    fsc[: len(solved.fsc)] = solved.fsc
    return Snapshot(
        volume=volume,
        half_a=half_a,
        half_b=half_b,
        fsc=fsc,
        voxel_size_angstrom=geometry.pixel_size_angstrom,
        resolution_angstrom=resolution_from_fsc(solved.fsc, box, geometry.pixel_size_angstrom, FSC_THRESHOLD),
        fsc_threshold=FSC_THRESHOLD,
        status=status,
        noise_variance=noise_variance.copy(),
        optics_groups=groups,
    )
