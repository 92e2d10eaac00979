"""What an engine needs of a particle to visit it again: its image, its CTF, and what it added to the sums.

No files here: `streamrecon.state.particle_store` keeps these records, the engine makes and takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamrecon.fourier.points import half_plane_points
from streamrecon.geometry.rotation import quaternion_from_rotation, rotation_from_quaternion
from streamrecon.inference.compact import CompactImages
from streamrecon.inference.importance import PoseSamples
from streamrecon.reconstruct.collective import Share

_Record = TypeVar("_Record", "Contribution", "KeptParticles", CompactImages)


@dataclass(frozen=True)
class KeptLayout:
    """Sizes of the records of one session.

    Attributes
    ----------
    band : int, shells
        Images are kept up to here: the band limit in use.
    samples : int
        Most poses of a contribution.
    """

    band: int
    samples: int

    @property
    def n_points(self) -> int:
        """Half-plane points of an image."""
        return len(half_plane_points(self.band))


@dataclass(frozen=True)
class Contribution:
    """What each of n particles added to the sums, so that the very same can be taken out again.

    Attributes
    ----------
    quaternion : ndarray, (n, K, 4) float32
        Rotations of the poses that were inserted, the most probable first.
    shift : ndarray, (n, K, 2) float32, pixels
    weight : ndarray, (n, K) float32
        0 where there is no pose.
    inverse_noise : ndarray, (n, band + 1) float32
        By which the image was weighed, inlier probability included; 0 beyond the band that was inserted.
    amplitude : ndarray, (n,) float32
        By which the CTF was multiplied.
    b_factor : ndarray, (n,) float32, angstrom^2
        Of the envelope by which it was multiplied, too.
    level : ndarray, (n,) float64
        Log of the sums' gain when it was inserted (see `Accumulator`).
    epoch, frame : ndarray, (n,) int64
        Which sums it is in, and which frame of reference its poses are in.
    """

    quaternion: NDArray[np.float32]
    shift: NDArray[np.float32]
    weight: NDArray[np.float32]
    inverse_noise: NDArray[np.float32]
    amplitude: NDArray[np.float32]
    b_factor: NDArray[np.float32]
    level: NDArray[np.float64]
    epoch: NDArray[np.int64]
    frame: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.level)

    def take(self, rows: NDArray[np.integer]) -> Contribution:
        """Return those of the given rows."""
        return Contribution(*(getattr(self, f.name)[rows] for f in fields(self)))

    def bands(self) -> NDArray[np.int64]:
        """Return the last shell that each was inserted with, (n,); 0 where nothing was."""
        used = self.inverse_noise != 0
        last = used.shape[1] - 1 - np.argmax(used[:, ::-1], axis=1)
        return np.where(used.any(axis=1), last, 0)

    def samples(self, factor: NDArray[np.floating] | float = 1.0) -> PoseSamples:
        """Return the poses as they are inserted, weights times ``factor`` (n,)."""
        n = len(self)
        scaled = self.weight * np.broadcast_to(np.asarray(factor, np.float32), n)[:, None]
        flat = rotation_from_quaternion(self.quaternion.reshape(-1, 4))
        return PoseSamples(
            rotation=flat.reshape(*self.weight.shape, 3, 3).astype(np.float32),
            shift=self.shift,
            weight=scaled.astype(np.float32),
            log_evidence=np.zeros(n, np.float32),
            effective_sample_size=np.ones(n, np.float32),
            best=np.zeros(n, np.int32),
            evaluations=0,
        )


@dataclass(frozen=True)
class KeptParticles:
    """n particles as they are kept.

    Attributes
    ----------
    images : CompactImages
    ctf_coefficients : ndarray, (n, 5) float32
    frequency_step : ndarray, (n,) float32, 1/angstrom a Fourier pixel
    group : ndarray, (n,) int32
    half : ndarray, (n,) int8
    contribution : Contribution
    """

    images: CompactImages
    ctf_coefficients: NDArray[np.float32]
    frequency_step: NDArray[np.float32]
    group: NDArray[np.int32]
    half: NDArray[np.int8]
    contribution: Contribution

    def __len__(self) -> int:
        return len(self.half)

    def take(self, rows: NDArray[np.integer]) -> KeptParticles:
        """Return those of the given rows."""
        return KeptParticles(
            self.images.take(rows),
            self.ctf_coefficients[rows],
            self.frequency_step[rows],
            self.group[rows],
            self.half[rows],
            self.contribution.take(rows),
        )


def joined(parts: Sequence[_Record]) -> _Record:
    """Join records of the same layout."""
    first = parts[0]
    values: list[Any] = []
    for f in fields(first):
        column = [getattr(part, f.name) for part in parts]
        if isinstance(column[0], np.ndarray):
            values.append(np.concatenate(column))
        else:
            values.append(joined(column))
    return type(first)(*values)


_Images = TypeVar("_Images", CompactImages, None)


def joined_ranks(share: Share, contribution: Contribution, images: _Images) -> tuple[Contribution, _Images]:
    """Return what all ranks' images added, and the images if given, in the batch's order."""
    if share.alone:
        return contribution, images
    columns = [getattr(contribution, f.name) for f in fields(contribution)]
    n = len(columns)
    columns += [] if images is None else [getattr(images, f.name) for f in fields(images)]
    joined_columns: list[Any] = share.join(*columns)
    return Contribution(*joined_columns[:n]), images if images is None else CompactImages(*joined_columns[n:])


def contribution_of(
    samples: PoseSamples,
    minimum_weight: float,
    inverse_noise: NDArray[np.float32],
    layout: KeptLayout,
    strength: tuple[NDArray[np.float32], NDArray[np.float32]],
    level: float,
    epoch: int,
    frame: int,
) -> Contribution:
    """Return what will be inserted of a batch's posteriors: poses of at least ``minimum_weight``.

    Parameters
    ----------
    inverse_noise : ndarray, (n, k_max + 1) float32
        Up to the band that is inserted.
    strength : amplitude (n,) and B-factor (n,)
    """
    n, k = samples.weight.shape
    order = np.argsort(-samples.weight, axis=1, kind="stable")
    rows = np.arange(n)[:, None]
    weight = samples.weight[rows, order]
    weight = np.where(weight >= minimum_weight, weight, np.float32(0.0))
    band = np.zeros((n, layout.band + 1), np.float32)
    band[:, : inverse_noise.shape[1]] = inverse_noise
    if k != layout.samples:
        raise ValueError(f"expected {layout.samples} samples an image, found {k}")
    quaternion = np.zeros((n, k, 4), np.float32)
    quaternion[..., 0] = 1.0
    used = weight > 0
    quaternion[used] = quaternion_from_rotation(samples.rotation[rows, order][used])
    return Contribution(
        quaternion=quaternion,
        shift=np.ascontiguousarray(samples.shift[rows, order], np.float32),
        weight=weight.astype(np.float32),
        inverse_noise=band,
        amplitude=np.asarray(strength[0], np.float32),
        b_factor=np.asarray(strength[1], np.float32),
        level=np.full(n, level),
        epoch=np.full(n, epoch, np.int64),
        frame=np.full(n, frame, np.int64),
    )
