"""Real particles at known poses: the exact minimum, and an optimiser on its way there."""

from pathlib import Path

import numpy as np
import pytest

from streamrecon.compute.cpu import CpuBackend
from streamrecon.errors import ConfigError
from streamrecon.experiments.methods import method_settings, streaming_methods
from streamrecon.experiments.real import minimum, posed_objective, read_posed, run_real
from streamrecon.reconstruct.extent import geometry_for
from streamrecon.reconstruct.settings import EngineSettings

STAR = Path(__file__).parents[2] / "fixtures" / "atp_synthase.star"


@pytest.fixture(scope="module")
def objective():
    batch = read_posed(STAR)
    group = batch.table.optics_groups[0]
    geometry = geometry_for(EngineSettings(), group.box_size, group.pixel_size_angstrom)
    return posed_objective(batch, geometry, 5, CpuBackend(1))


def test_nothing_is_below_the_minimum(objective):
    best = minimum(objective)
    lowest = objective.value(best)
    assert lowest < 0.0
    assert np.linalg.norm(objective.gradient(best)) < 1e-4 * np.linalg.norm(objective.gradient(0 * best))
    rng = np.random.default_rng(0)
    for _ in range(3):
        away = rng.normal(size=len(best)).astype(np.float32) * np.std(best) * 0.3
        assert objective.value(best + away) > lowest


def test_an_optimiser_comes_near_it():
    parameters = {"particles": str(STAR), "shells": 5, "method": "hessian_free", "factor": 1.0, "steps": 4}
    result = run_real(parameters, CpuBackend(1), lambda: False)
    excess = [row["excess"] for row in result.rows]
    assert excess[0] == pytest.approx(1.0)
    assert excess[-1] < 0.2


def test_told_to_stop_nothing_comes_back():
    parameters = {"particles": str(STAR), "shells": 5, "method": "sgd", "factor": 1.0, "steps": 4}
    assert run_real(parameters, CpuBackend(1), lambda: True) is None


def test_a_method_that_is_not_there_is_refused():
    assert len(streaming_methods()) == 9
    with pytest.raises(ConfigError, match="adam"):
        method_settings("adam")
