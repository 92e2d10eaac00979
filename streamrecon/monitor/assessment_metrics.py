"""The worker's gauges of an assessment; NaN while a figure is not known."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Gauge

from streamrecon.assess.report import Assessment
from streamrecon.monitor.naming import Maker

_FIGURES = {
    "resolution_masked_angstrom": "Where the mask-corrected half-set FSC falls below 0.143.",
    "resolution_half_angstrom": "Where the mask-corrected half-set FSC falls below 0.5.",
    "bfactor_angstrom2": "Slope of the Guinier plot from 10 A on, times 4; negative: amplitudes fall off.",
    "angular_efficiency_ratio": "Efficiency of the distribution of views: 1 uniform, 0 a single view.",
    "conical_fsc_area_ratio": "Smallest over largest area under conical FSC curves, at equal particle counts.",
    "tilt_suggestion_degrees": "Smallest stage tilt that makes the views good enough; 0: none is needed.",
}
# promtool takes a part "b" of a name for an abbreviated unit
_FIELDS = {"angular_efficiency_ratio": "angular_efficiency", "bfactor_angstrom2": "b_factor_angstrom2"}


class AssessmentGauges:
    """Gauges of the worker's registry.

    Parameters
    ----------
    gauge : Maker
        Of the worker's prefix.
    targets_angstrom : sequence of float
        Resolutions that are foretold; each is a label, there from the start.
    """

    def __init__(self, gauge: Maker[Gauge], targets_angstrom: Sequence[float]) -> None:
        self._gauges = {name: gauge(name, text) for name, text in _FIGURES.items()}
        self._forecast = gauge(
            "forecast_particles", "Particles that the target resolution (angstrom) takes in all.", ("target",)
        )
        for figure in self._gauges.values():
            figure.set(float("nan"))
        self._targets = tuple(dict.fromkeys(f"{target:g}" for target in targets_angstrom))
        for target in self._targets:
            self._forecast.labels(target).set(float("nan"))

    def set(self, assessment: Assessment) -> None:
        """Take over the figures of an assessment."""
        for name, figure in self._gauges.items():
            figure.set(_number(getattr(assessment, _FIELDS.get(name, name))))
        told = {f"{one.resolution_angstrom:g}": one.particles for one in assessment.forecast}
        for target in self._targets:
            self._forecast.labels(target).set(_number(told.get(target)))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
