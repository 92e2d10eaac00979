"""What is known of a session at one moment, as plain values: what an operator decides on."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamrecon.assess.forecast import Forecast


@dataclass(frozen=True)
class FitSummary:
    """The Rosenthal-Henderson line in numbers; ``b_factor_high`` is None where the line may be flat."""

    b_factor_angstrom2: float
    b_factor_low: float
    b_factor_high: float | None
    points: int


@dataclass(frozen=True)
class OpticsGroupSummary:
    """One optics group's particles and how they fit; None where the engine does not tell."""

    name: str
    particles: int
    mean_log_evidence: float | None
    mean_effective_sample_size: float | None
    amplitude_scale: float | None = None
    inlier_share: float | None = None
    b_factor_angstrom2: float | None = None


@dataclass(frozen=True)
class SymmetrySummary:
    """The largest group that the map shows, how well, and whether it was asked for."""

    group: str
    correlation: float
    asked: bool
    note: str


@dataclass(frozen=True)
class Assessment:
    """Everything that goes out as ``assessment/``; None or empty while unknown. See docs/assessment.md."""

    box_size: int
    voxel_size_angstrom: float
    resolution_unmasked_angstrom: float | None = None
    resolution_masked_angstrom: float | None = None
    resolution_half_angstrom: float | None = None
    fsc_unmasked: list[float] = field(default_factory=list)
    fsc_masked: list[float] = field(default_factory=list)
    fsc_randomised: list[float] = field(default_factory=list)
    fsc_corrected: list[float] = field(default_factory=list)
    b_factor_angstrom2: float | None = None
    sharpening_b_factor: float | None = None
    resolution_history: list[tuple[int, float]] = field(default_factory=list)
    fit: FitSummary | None = None
    forecast: list[Forecast] = field(default_factory=list)
    angular_n_side: int = 0
    angular_counts: list[int] = field(default_factory=list)
    angular_efficiency: float | None = None
    tilt_suggestion_degrees: float | None = None
    conical_fsc_area_ratio: float | None = None
    noise_variance: list[list[float]] = field(default_factory=list)
    optics_groups: list[OpticsGroupSummary] = field(default_factory=list)
    defocus_edges_angstrom: list[float] = field(default_factory=list)
    defocus_counts: list[int] = field(default_factory=list)
    symmetry: SymmetrySummary | None = None
