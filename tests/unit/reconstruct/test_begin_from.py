"""An engine that begins from a map that is given."""

import numpy as np
import pytest

from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.errors import NumericalError
from streamrecon.experiments.methods import method_settings
from streamrecon.peers.start import map_of_true_poses
from streamrecon.reconstruct.engine import Engine
from streamrecon.reconstruct.extent import geometry_for
from streamrecon.reconstruct.settings import EngineSettings
from tests.simulated import batches, f1_atpase

BOX, PIXEL = 32, 6.4


@pytest.mark.parametrize("method", ["online_em", "sgd"])
def test_the_first_images_are_posed_on_it(method):
    made = list(batches(f1_atpase(BOX, PIXEL), PIXEL, 200, 1.0, seed=3, size=100))
    settings = method_settings(method, settle_images=1)
    good = map_of_true_poses([b for b, _ in made], geometry_for(EngineSettings(), BOX, PIXEL), CpuBackend(1))
    given, random = (Engine(settings, BOX, PIXEL, CpuBackend(1), 0) for _ in range(2))
    given.begin_from(good)
    found = [engine.fold(made[0][0]) for engine in (given, random)]
    shares = [pose_errors(made[0][1], f.rotation).share_within(15) for f in found]
    assert shares[0] > 0.8
    assert shares[1] < 0.4
    # and on from there
    assert pose_errors(made[1][1], given.fold(made[1][0]).rotation).share_within(15) > 0.6
    assert np.isnan(given.status.step_size) == (method == "online_em")


def test_a_map_of_another_box_is_refused():
    engine = Engine(EngineSettings(), BOX, PIXEL, CpuBackend(1), 0)
    with pytest.raises(NumericalError, match="32"):
        engine.begin_from(np.zeros((48, 48, 48), np.float32))
