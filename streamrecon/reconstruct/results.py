"""What the engine hands out: results of a batch, its status, snapshots and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrecon.geometry.orientation import Orientation
from streamrecon.particles import ParticleBatch
from streamrecon.reconstruct.collective import Share
from streamrecon.reconstruct.kept import KeptLayout, KeptParticles, joined

STAGES = ("waiting", "searching", "settled", "refining")
FSC_KINDS = ("common", "gold_standard")


@dataclass(frozen=True)
class BatchResult:
    """Posterior summary of the n particles of one batch, in the batch's order.

    Attributes
    ----------
    rotation : ndarray, (n, 3, 3) float32
        Of the most probable pose, in the engine's own frame: `EngineLike.orientation` says how that lies to the maps'.
    shift_angstrom : ndarray, (n, 2) float32, angstrom
    pose_weight : ndarray, (n,) float32
        Posterior weight of that pose among the sampled ones, 0 to 1.
    effective_sample_size : ndarray, (n,) float32
    log_evidence : ndarray, (n,) float32
        Log of the pose-marginalised likelihood ratio to "noise alone", nats.
    evaluations : int
        Full-band pose evaluations spent on the batch.
    step_seconds : float
        Wall time of the fold.
    inlier : ndarray, (n,) float32 or None
        Probability that the map explains the image and not junk; None while the map is too poor to judge by.
    kept : KeptParticles or None
        What it takes to visit them again, if the engine was asked to keep that.
    """

    rotation: NDArray[np.float32]
    shift_angstrom: NDArray[np.float32]
    pose_weight: NDArray[np.float32]
    effective_sample_size: NDArray[np.float32]
    log_evidence: NDArray[np.float32]
    evaluations: int
    step_seconds: float
    inlier: NDArray[np.float32] | None = None
    kept: KeptParticles | None = None

    def take(self, rows: NDArray[np.integer]) -> BatchResult:
        """Return the result of the given rows; what was spent stays that of the whole batch."""
        changed: dict[str, Any] = {
            f.name: value[rows] for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray)
        }
        return replace(self, **changed, kept=None if self.kept is None else self.kept.take(rows))

    def joined_ranks(self, share: Share) -> BatchResult:
        """Return the result of the whole batch where each rank has that of its images; one costs as much as another."""
        if share.alone:
            return self
        names = ("rotation", "shift_angstrom", "pose_weight", "effective_sample_size", "log_evidence")
        columns = share.join(*(getattr(self, name) for name in names))
        joined: dict[str, Any] = dict(zip(names, columns, strict=True))
        return replace(self, **joined, evaluations=round(self.evaluations * share.n / len(self.pose_weight)))


def joined_results(parts: Sequence[BatchResult]) -> BatchResult:
    """Join results; what was spent adds up. An inlier probability that is missing in one part counts as 1."""
    if len(parts) == 1:
        return parts[0]
    columns = ("rotation", "shift_angstrom", "pose_weight", "effective_sample_size", "log_evidence")
    inliers = [p.inlier for p in parts if p.inlier is not None]
    ones = [np.ones(len(p.pose_weight), np.float32) if p.inlier is None else p.inlier for p in parts]
    kept = [p.kept for p in parts if p.kept is not None]
    return BatchResult(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in columns},
        evaluations=sum(p.evaluations for p in parts),
        step_seconds=sum(p.step_seconds for p in parts),
        inlier=np.concatenate(ones) if inliers else None,
        kept=joined(kept) if len(kept) == len(parts) else None,
    )


@dataclass(frozen=True)
class EngineStatus:
    """Where the engine stands; plain numbers, cheap to make.

    ``stage`` is one of `STAGES`, and ``stage_reason`` says to people what brought it there. ``fsc_kind`` is one of
    `FSC_KINDS` and says how honest the FSC is: "common" between halves posed on one map (optimistic), "gold_standard"
    between halves posed on their own. ``inlier_share``: share of images that the map explains, NaN while unknown.
    ``search_progress`` is how far the annealing's schedule has run, 0 to 1: at 1 the search settles once it is sure.
    ``symmetry`` is the point group that is imposed, and ``symmetry_reason`` says why or why not. ``symmetry_gain`` is
    by how much a map without it explains new images better, nats an image (below 0 where the particle has it; NaN: not
    known); ``symmetry_contradicted`` says that the images contradict a group that was asked for, and
    ``symmetry_taken_back`` which one was imposed unasked and turned out not to be there ("": none).
    ``starts`` are the random starts that run side by side now, ``start_agreement`` (-1 to 1, NaN while unknown) is how
    alike the maps of the last two that were compared are, ``challenges`` how many fresh starts were made since the
    first ones, and ``challenge_reason`` why the last one was, and how it ended.
    ``method`` is that of the settings, ``step_size`` its optimiser's latest, NaN for the default.
    """

    stage: str
    particles_seen: int
    image_visits: int
    step: int
    k_max: int
    temperature: float
    effective_sample_size: float
    coarse_entropy: float
    resolution_angstrom: float
    fsc_kind: str
    step_seconds: float
    images_per_second: float
    evaluations_per_image: float
    log_evidence: float
    stage_reason: str = ""
    inlier_share: float = float("nan")
    search_progress: float = 1.0
    symmetry: str = "C1"
    symmetry_reason: str = ""
    symmetry_gain: float = float("nan")
    symmetry_contradicted: bool = False
    symmetry_taken_back: str = ""
    starts: int = 1
    start_agreement: float = float("nan")
    challenges: int = 0
    challenge_reason: str = ""
    method: str = "online_em"
    step_size: float = float("nan")


@dataclass(frozen=True)
class GroupHealth:
    """How the particles of one optics group fare.

    Attributes
    ----------
    name : str
    particles : int
        Each counted once.
    mean_log_evidence : float, nats
        Over its latest images.
    mean_effective_sample_size : float
    amplitude_scale : float or None
        Strength of its particles relative to the mean of all groups.
    inlier_share : float or None
        Share of its images that the map explains; None while the map is too poor to judge by.
    b_factor_angstrom2 : float or None
        How much more its images are blurred than those of the sharpest group.
    """

    name: str
    particles: int
    mean_log_evidence: float
    mean_effective_sample_size: float
    amplitude_scale: float | None
    inlier_share: float | None
    b_factor_angstrom2: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """A consistent set of maps.

    Attributes
    ----------
    volume, half_a, half_b : ndarray, (box, box, box) float32
        (z, y, x), protein positive. ``volume`` is filtered by its own FSC, the halves are not.
    fsc : ndarray, (box // 2 + 1,) float32
        Between the halves, shell by shell.
    voxel_size_angstrom, resolution_angstrom : float
        Resolution where ``fsc`` falls below ``fsc_threshold``.
    noise_variance : ndarray, (n_groups, box // 2 + 1) float64
        Of a Fourier coefficient of the unmasked image, by shell; groups in the order of ``optics_groups``.
    optics_groups : tuple of GroupHealth
    """

    volume: NDArray[np.float32]
    half_a: NDArray[np.float32]
    half_b: NDArray[np.float32]
    fsc: NDArray[np.float32]
    voxel_size_angstrom: float
    resolution_angstrom: float
    fsc_threshold: float
    status: EngineStatus
    noise_variance: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    optics_groups: tuple[GroupHealth, ...] = ()


@dataclass(frozen=True)
class EngineState:
    """Everything needed to go on as if nothing had happened: arrays, and scalars that JSON can hold."""

    arrays: Mapping[str, NDArray[np.generic]]
    scalars: Mapping[str, int | float | str]


class EngineLike(Protocol):
    """What the worker needs of an engine."""

    @property
    def status(self) -> EngineStatus:
        """Return where the engine stands."""

    @property
    def orientation(self) -> Orientation:
        """Return how the frame of the poses that are handed out lies to that of the snapshots' maps."""

    @property
    def layout(self) -> KeptLayout | None:
        """Return the sizes of what is kept of a particle, None if nothing is."""

    @property
    def device_memory(self) -> tuple[int, int] | None:
        """Return bytes in use on its device and bytes there are, None without a device of its own."""

    def fold(self, batch: ParticleBatch) -> BatchResult:
        """Fold a batch into the running reconstruction; each particle counts once."""

    def revisit(self, kept: KeptParticles, search: NDArray[np.bool_]) -> BatchResult:
        """Look at particles again; what they added to the sums is replaced."""

    def snapshot(self) -> Snapshot:
        """Return the current maps."""

    def state(self) -> EngineState:
        """Return a copy of the state, safe to write while the engine goes on."""

    def restore(self, state: EngineState) -> None:
        """Take up a state written by `state`."""

    def close(self) -> None:
        """Let go of what it holds beside memory."""
