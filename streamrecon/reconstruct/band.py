"""The band in use: it follows the half-set FSC, a step at a time, and never beyond what the session may use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamrecon.fourier.shells import first_shell_below
from streamrecon.reconstruct.settings import EngineSettings
from streamrecon.reconstruct.stages import Stages

FSC_THRESHOLD = 0.143
GROWTH_THRESHOLD = 0.5
_GROWTH_MARGIN = 3  # shells beyond the FSC's fall that still hold something to align to
_REFINEMENT_MARGIN = 2  # an honest FSC needs less margin


def choose_band(
    settings: EngineSettings, stages: Stages, fsc: NDArray[np.floating], k_max: int, k_limit: int, since: int
) -> tuple[int, int]:
    """Return the band to use, and the one that the FSC asks for.

    Parameters
    ----------
    fsc : ndarray
        Between the half maps of the latest solution.
    k_max, k_limit : int
        The band in use, and the last shell there may ever be.
    since : int
        Image visits since the band last moved: how far it may move now.
    """
    allowed = since // settings.settled_images_per_shell
    if stages.name == "searching":
        allowed = min(1, int(since / (settings.images_per_shell * settings.patience)))
    if stages.split:
        wanted = first_shell_below(fsc, FSC_THRESHOLD) + _REFINEMENT_MARGIN
    else:
        wanted = first_shell_below(fsc, GROWTH_THRESHOLD) + _GROWTH_MARGIN
    wanted = min(max(wanted, settings.start_shells), k_limit)
    return min(max(wanted, k_max - allowed), k_max + allowed), wanted
