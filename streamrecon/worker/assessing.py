"""From one snapshot to an assessment, and to its files."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.directions import N_SIDE, orientation_efficiency, tilt_suggestion_degrees
from streamrecon.assess.forecast import RosenthalHendersonFit, forecast
from streamrecon.assess.half_maps import HalfMapAssessment, assess_half_maps, make_mask
from streamrecon.assess.masks import check_mask
from streamrecon.assess.report import Assessment, FitSummary, OpticsGroupSummary, SymmetrySummary
from streamrecon.assess.sharpening import filter_undone
from streamrecon.assess.symmetry_search import ACCEPTED, find_symmetry
from streamrecon.config.model import AssessConfig
from streamrecon.errors import NumericalError
from streamrecon.io import atomic_path, read_volume, write_volume
from streamrecon.reconstruct.results import GroupHealth, Snapshot
from streamrecon.worker.session_history import FIT_STAGES, SessionHistory
from streamrecon.worker.tallies import DEFOCUS_EDGES_ANGSTROM, Told

FILE_NAME = "assessment.json"
# a header has 64 KiB: that many optics groups, and numbers of noise spectra, fit with all the rest
MOST_GROUPS = 64
_MOST_NOISE_VALUES = 1_500
# the search for axes costs more than all the rest: only of a map that is one, and anew only once it has changed
_SYMMETRY_CHANGE = 0.95


@dataclass(frozen=True)
class Assessed:
    """An assessment, the maps that go with it, and the snapshot's status."""

    assessment: Assessment
    maps: HalfMapAssessment
    snapshot: Snapshot
    seconds: float


class SnapshotAssessor:
    """Works out assessments one after the other, and remembers what the next one needs.

    Parameters
    ----------
    config : AssessConfig
    diameter_angstrom : float, angstrom
        Of the particle, for the spherical mask; 0: 0.8 of the box.
    history : SessionHistory
    """

    def __init__(self, config: AssessConfig, diameter_angstrom: float, history: SessionHistory) -> None:
        self._config = config
        self._diameter_angstrom = diameter_angstrom
        self._history = history
        self._user_mask: NDArray[np.float32] | None = None
        self._symmetry: SymmetrySummary | None = None
        self._symmetry_angstrom = math.inf

    def assess(self, snapshot: Snapshot, told: Told) -> Assessed:
        """Assess a snapshot.

        Raises
        ------
        StreamReconError
            There is nothing to assess yet, or the mask cannot be used.
        """
        began = time.monotonic()
        voxel, status = snapshot.voxel_size_angstrom, snapshot.status
        box = len(snapshot.volume)
        maps = assess_half_maps(
            snapshot.half_a,
            snapshot.half_b,
            voxel,
            self._mask(snapshot),
            particles=status.particles_seen,
            shell_gain=filter_undone(snapshot.fsc),
        )
        curves = maps.curves
        resolution = curves.resolution_angstrom()
        self._history.add(status, resolution, box * voxel, time.monotonic())
        fit = self._history.fit()
        rate = self._history.particles_per_hour
        known = status.stage in FIT_STAGES
        if self._config.find_symmetry and known and resolution <= _SYMMETRY_CHANGE * self._symmetry_angstrom:
            self._symmetry_angstrom = resolution
            self._symmetry = self._find_symmetry(snapshot, maps)
        counts = told.angular
        efficiency = orientation_efficiency(counts)
        assessment = Assessment(
            box_size=box,
            voxel_size_angstrom=voxel,
            resolution_unmasked_angstrom=_rounded(curves.unmasked_resolution_angstrom),
            resolution_masked_angstrom=_rounded(resolution),
            resolution_half_angstrom=_rounded(curves.resolution_angstrom(0.5)),
            fsc_unmasked=_listed(curves.unmasked),
            fsc_masked=_listed(curves.masked),
            fsc_randomised=_listed(curves.randomised),
            fsc_corrected=_listed(curves.corrected),
            b_factor_angstrom2=None if maps.sharpened.fit is None else _rounded(maps.sharpened.fit.b_factor_angstrom2),
            sharpening_b_factor=_rounded(maps.sharpened.b_factor_angstrom2),
            resolution_history=[(n, round(d, 3)) for n, d in self._history.points],
            fit=None if fit is None else _fit_summary(fit),
            forecast=[]
            if fit is None
            else [forecast(fit, target, status.particles_seen, rate) for target in self._config.target_angstrom],
            angular_n_side=N_SIDE,
            angular_counts=np.rint(counts).astype(int).tolist(),
            angular_efficiency=None if efficiency is None else _rounded(efficiency),
            tilt_suggestion_degrees=tilt_suggestion_degrees(counts),
            conical_fsc_area_ratio=None if maps.conical_area_ratio is None else _rounded(maps.conical_area_ratio),
            noise_variance=_noise_spectra(snapshot.noise_variance),
            optics_groups=[_group_summary(group) for group in snapshot.optics_groups[:MOST_GROUPS]],
            defocus_edges_angstrom=list(DEFOCUS_EDGES_ANGSTROM),
            defocus_counts=told.defocus.tolist(),
            symmetry=self._symmetry,
        )
        return Assessed(assessment, maps, snapshot, time.monotonic() - began)

    def write(self, folder: Path, assessed: Assessed) -> None:
        """Write sharpened.mrc, mask.mrc and assessment.json, the last one last; each replaced as a whole."""
        voxel = assessed.snapshot.voxel_size_angstrom
        write_volume(folder / "sharpened.mrc", assessed.maps.sharpened.volume, voxel)
        write_volume(folder / "mask.mrc", assessed.maps.mask, voxel)
        status = assessed.snapshot.status
        about = {
            "particles_seen": status.particles_seen,
            "stage": status.stage,
            "fsc_kind": status.fsc_kind,
            **asdict(assessed.assessment),
            "history": self._history.to_json_able(),
        }
        with atomic_path(folder / FILE_NAME) as path:
            path.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def _mask(self, snapshot: Snapshot) -> NDArray[np.float32]:
        kind, voxel = self._config.mask, snapshot.voxel_size_angstrom
        if kind in ("auto", "sphere"):
            maps, diameter = (snapshot.half_a, snapshot.half_b, voxel), self._diameter_angstrom
            try:
                return make_mask(kind, *maps, diameter_angstrom=diameter)
            except NumericalError:
                # the first maps show no particle yet: nothing is wrong, and the sphere always holds it
                return make_mask("sphere", *maps, diameter_angstrom=diameter)
        if self._user_mask is None:
            self._user_mask = check_mask(*read_volume(Path(kind)), len(snapshot.volume), voxel, kind)
        return self._user_mask

    def _find_symmetry(self, snapshot: Snapshot, maps: HalfMapAssessment) -> SymmetrySummary:
        mean = (snapshot.half_a + snapshot.half_b) / 2 * maps.mask
        found = find_symmetry(mean, maps.curves.corrected)
        asked = found.group == self._config.symmetry
        if found.group == "C1":
            note = f"no symmetry; nearest is {found.runner_up or 'none'} (accepted from {ACCEPTED:g} on)"
            if not asked:
                note = f"the map does not show {self._config.symmetry}: " + note
        elif asked:
            note = f"the map shows {found.group}, as expected; nothing was imposed"
        else:
            note = (
                f"the map shows {found.group}, {self._config.symmetry} was expected; if it is real, set "
                f"assess.symmetry and impose it later: streamrecon postprocess --symmetry {found.group}"
            )
        return SymmetrySummary(found.group, round(found.correlation, 3), asked, note)


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _listed(curve: NDArray[np.floating]) -> list[float]:
    return [round(float(value), 4) for value in curve]


def _fit_summary(fit: RosenthalHendersonFit) -> FitSummary:
    low, high = fit.b_factor_interval_angstrom2
    top = round(high, 1) if math.isfinite(high) else None
    return FitSummary(round(fit.b_factor_angstrom2, 1), round(low, 1), top, fit.points)


def _group_summary(group: GroupHealth) -> OpticsGroupSummary:
    """Return it with null for what is not a number, and a name of a bounded length."""
    numbers = [
        None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
        for value in (
            group.mean_log_evidence,
            group.mean_effective_sample_size,
            group.amplitude_scale,
            group.inlier_share,
            group.b_factor_angstrom2,
        )
    ]
    return OpticsGroupSummary(group.name[:80], group.particles, *numbers)


def _noise_spectra(variance: NDArray[np.floating]) -> list[list[float]]:
    """Return the spectra of as many groups as the header has room for; an unknown value as 0."""
    if not variance.size:
        return []
    rows = max(1, _MOST_NOISE_VALUES // variance.shape[1])
    return [[float(f"{value:.5g}") for value in row] for row in np.nan_to_num(variance[:rows]).tolist()]
