"""What a step costs: gradients and Hessian products, as docs/optimisers.md has them."""

import numpy as np
import pytest

from streamrecon.optimise.methods import METHODS, make_optimiser
from tests.unit.optimise.quadratics import Quadratic, rotated


@pytest.mark.parametrize("name", METHODS)
def test_products_a_step(name, rng):
    expected = {"tonga": 2, "olbfgs": 2, "sagd": 2}.get(name, 1)
    n = 200
    optimiser, volume = make_optimiser(name), np.zeros(n)
    hessian, counts = rotated(np.geomspace(1.0, 100.0, n)), []
    for _ in range(12):
        f = Quadratic(hessian, np.ones(n), offset=rng.normal(size=n))
        volume = optimiser.step(volume, f)
        counts.append(f.gradients + f.products)
    if name == "hessian_free":
        assert min(counts[1:]) >= 13
        assert max(counts) <= 63
    else:
        assert counts == [expected] * 12
