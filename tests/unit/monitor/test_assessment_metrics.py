import math

import pytest
from prometheus_client import CollectorRegistry

from streamrecon.assess.forecast import Forecast
from streamrecon.assess.report import Assessment
from streamrecon.monitor.metrics import WorkerMetrics


def test_figures_are_unknown_until_they_are_told_and_again_when_they_are_no_more():
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry, (4.0, 2.5))

    def value(name, **labels):
        return registry.get_sample_value(f"streamrecon_worker_{name}", labels)

    names = ("resolution_masked_angstrom", "resolution_half_angstrom", "bfactor_angstrom2", "angular_efficiency_ratio")
    assert all(math.isnan(value(name)) for name in names)
    assert math.isnan(value("forecast_particles", target="2.5"))
    metrics.assessed(
        Assessment(
            64,
            3.2,
            resolution_masked_angstrom=7.5,
            resolution_half_angstrom=9.5,
            b_factor_angstrom2=-120.0,
            angular_efficiency=0.7,
            tilt_suggestion_degrees=30.0,
            conical_fsc_area_ratio=0.6,
            forecast=[Forecast(4.0, 1e5, 5e4, None, None, None, None)],
        )
    )
    assert [value(name) for name in names] == [7.5, 9.5, -120.0, 0.7]
    assert value("tilt_suggestion_degrees") == 30
    assert value("conical_fsc_area_ratio") == pytest.approx(0.6)
    assert value("forecast_particles", target="4") == 1e5
    assert math.isnan(value("forecast_particles", target="2.5"))
    metrics.assessed(Assessment(64, 3.2))
    assert math.isnan(value("forecast_particles", target="4"))
    assert math.isnan(value("bfactor_angstrom2"))
