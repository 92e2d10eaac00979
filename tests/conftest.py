"""Fixtures every suite shares."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    """Random numbers that are the same at every run."""
    return np.random.default_rng(1234)
