"""Counters of a reconstruction that are saved as they are, and how they go into a checkpoint's scalars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

from streamrecon.reconstruct.stages import Stages
from streamrecon.reconstruct.symmetry_doubts import SymmetryDoubts

_Fields = TypeVar("_Fields", "Counters", "Recent", Stages, SymmetryDoubts)


@dataclass(frozen=True)
class Recent:
    """The part of `EngineStatus` that the latest batch decides."""

    effective_sample_size: float = 0.0
    coarse_entropy: float = 0.0
    step_seconds: float = 0.0
    images_per_second: float = 0.0
    evaluations_per_image: float = 0.0
    log_evidence: float = 0.0
    inlier_share: float = float("nan")
    step_size: float = float("nan")


@dataclass
class Counters:
    """What has been done so far.

    Attributes
    ----------
    particles_seen, image_visits : int
        Particles count once, visits every time an image is looked at.
    step : int
        Batches, of either kind.
    last_update, last_growth : int
        Image visits at the last solution, and when the band last moved.
    epoch, frame : int
        Count how often the sums were emptied, and how often poses found before lost their meaning.
    held : int
        Particles in the sums since they were last emptied.
    revisits : int
        Visits to particles seen before, since the sums were last emptied.
    """

    particles_seen: int = 0
    image_visits: int = 0
    step: int = 0
    last_update: int = 0
    last_growth: int = 0
    temperature: float = 1.0
    epoch: int = 0
    frame: int = 0
    held: int = 0
    revisits: int = 0


def with_prefix(prefix: str, values: Counters | Recent | Stages | SymmetryDoubts) -> dict[str, int | float | str]:
    """Return a dataclass of plain fields as scalars."""
    return {prefix + name: value for name, value in asdict(values).items()}


def from_prefix(kind: type[_Fields], prefix: str, scalars: Mapping[str, int | float | str]) -> _Fields:
    """Make a dataclass of plain fields from scalars of `with_prefix`; JSON may have turned 1.0 into 1."""
    fresh = kind()
    return kind(**{f.name: type(getattr(fresh, f.name))(scalars[prefix + f.name]) for f in fields(kind)})
