"""Putting posteriors into the sums in a form that can be taken out again.

What goes in is what is kept: poses as they come back from their record, images as they come back from half precision,
the same noise and amplitudes. So a particle's old contribution leaves the sums to rounding, without a rebuild of them:
particles can be visited in any order, and a sweep be broken off anywhere.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamrecon.compute.backend import Array, Backend
from streamrecon.fourier.points import HalfPlanePoints, half_plane_points, points_within
from streamrecon.inference.compact import CompactImages
from streamrecon.inference.importance import PoseSamples
from streamrecon.reconstruct.half_maps import HalfMaps
from streamrecon.reconstruct.image_model import envelope_at
from streamrecon.reconstruct.kept import Contribution, KeptLayout, KeptParticles, contribution_of

_NOTHING = 1e-30  # poses of less weight are not there


def insert(
    halves: HalfMaps,
    backend: Backend,
    samples: PoseSamples,
    weighed: Array,
    inlier: NDArray[np.float32],
    inverse_noise: NDArray[np.float32],
    points: HalfPlanePoints,
    n_a: int,
    minimum_weight: float,
    layout: KeptLayout,
    strength: tuple[Array, Array],
    epoch: int,
    frame: int,
    *,
    counts: bool = True,
) -> Contribution:
    """Insert a batch, and return what went in.

    Parameters
    ----------
    weighed : ndarray, (3, n, n_points)
        Without the inlier probability.
    inlier : ndarray, (n,), on the host
    inverse_noise : ndarray, (n, n_shells), on the host
    counts : bool
        False adds nothing: these images are in another rank's sums.
    strength : amplitude (n,) and B-factor (n,), on the host
        That are in the images' CTF.
    """
    to_host = backend.to_host
    noise = inverse_noise[:, : points.k_max + 1] * inlier[:, None]
    found = replace(
        samples,
        rotation=to_host(samples.rotation),
        shift=to_host(samples.shift),
        weight=to_host(samples.weight),
    )
    contribution = contribution_of(found, minimum_weight, noise, layout, strength, halves.level, epoch, frame)
    put = _on_device(backend, contribution.samples())
    halves.insert(n_a, put, weighed * backend.to_device(inlier)[:, None], points, _NOTHING, sign=float(counts))
    return contribution


def remove(
    halves: HalfMaps,
    backend: Backend,
    kept: KeptParticles,
    n_a: int,
    layout: KeptLayout,
    epoch: int,
    *,
    counts: bool = True,
) -> NDArray[np.bool_]:
    """Take out what particles are in the sums with; return which were in these sums, (n,).

    Parameters
    ----------
    kept : KeptParticles
        Sorted: the first ``n_a`` belong to half a.
    counts : bool
        False takes nothing out: another rank does.
    """
    old = kept.contribution
    there = old.epoch == epoch
    # what was forgotten since is not there any more
    factor = np.where(there, np.exp(np.minimum(old.level - halves.level, 0.0)), 0.0)
    reach = np.where(there, old.bands(), 0)
    # each band by itself: the last shell of one is cut by |k|, and part of it lies in the next
    for k_max in np.unique(reach[reach > 0]).tolist():
        rows = np.flatnonzero(reach == k_max)
        points = half_plane_points(k_max)
        weighed = _weighed_again(backend, kept.take(rows), points, layout)
        part = int(np.count_nonzero(rows < n_a))
        poses = _on_device(backend, old.take(rows).samples(factor[rows]))
        halves.insert(part, poses, weighed, points, _NOTHING, sign=-float(counts))
    return np.asarray(there)


def _weighed_again(backend: Backend, kept: KeptParticles, points: HalfPlanePoints, layout: KeptLayout) -> Array:
    """Return the weighed images as they were inserted, (3, n, n_points)."""
    old = kept.contribution
    _, columns = points_within(half_plane_points(layout.band), points.k_max)
    to_device = backend.to_device
    real, imaginary = (to_device(part) for part in kept.images.decode(columns))
    coefficients, step = to_device(kept.ctf_coefficients), to_device(kept.frequency_step)
    amplitude, inverse_noise = to_device(old.amplitude[:, None]), to_device(old.inverse_noise)
    blurred = bool(old.b_factor.any())

    def piece(a: int, b: int) -> Array:
        ctf = backend.ctf(coefficients[a:b], points.kx, points.ky, step[a:b])
        if blurred:
            ctf = ctf * to_device(envelope_at(points, old.b_factor[a:b], kept.frequency_step[a:b, None]))
        ctf = ctf * amplitude[a:b]
        return backend.weigh(real[a:b], imaginary[a:b], ctf, points.shell, inverse_noise[a:b])

    return backend.concatenate(backend.run(piece, len(kept)), axis=1)


def _on_device(backend: Backend, samples: PoseSamples) -> PoseSamples:
    """Return poses as the device inserts them."""
    to_device = backend.to_device
    return replace(
        samples,
        rotation=to_device(samples.rotation),
        shift=to_device(samples.shift),
        weight=to_device(samples.weight),
    )


def modes_of(contribution: Contribution, backend: Backend) -> PoseSamples:
    """Return the poses that were inserted as where to look next; a particle without any gets one, somewhere."""
    samples = contribution.samples()
    weight = samples.weight.copy()
    weight[:, 0] = np.where(weight.sum(axis=1) > 0, weight[:, 0], 1.0)
    return _on_device(backend, replace(samples, weight=weight))


def kept_of(
    images: CompactImages,
    ctf_coefficients: Array,
    frequency_step: Array,
    group: NDArray[np.integer],
    n_a: int,
    contribution: Contribution,
) -> KeptParticles:
    """Return a batch as it is kept."""
    n = len(contribution)
    return KeptParticles(
        images=images,
        ctf_coefficients=np.asarray(ctf_coefficients, np.float32),
        frequency_step=np.asarray(frequency_step, np.float32),
        group=np.asarray(group, np.int32),
        half=(np.arange(n) >= n_a).astype(np.int8),
        contribution=contribution,
    )
