"""What trilinear interpolation on a padded grid does to a map in real space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def trilinear_profile(map_box: int, pad: int) -> NDArray[np.float32]:
    """Return the real-space profile along one axis of that interpolation, sinc^2, (map_box,)."""
    x = np.arange(map_box) - map_box // 2
    return np.asarray(np.sinc(x / (pad * map_box)) ** 2, np.float32)
