"""The engine's state as plain arrays and scalars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from streamrecon.optics.group import OpticsGroup
from streamrecon.reconstruct.results import EngineState


def pack_state(
    arrays: Mapping[str, NDArray[np.generic]],
    scalars: Mapping[str, int | float | str],
    groups: list[OpticsGroup],
) -> EngineState:
    """Copy everything into an `EngineState`; optics groups travel as one JSON string."""
    return EngineState(
        arrays={name: np.array(array) for name, array in arrays.items()},
        scalars={**scalars, "optics_groups": json.dumps([asdict(group) for group in groups])},
    )


def unpack_groups(state: EngineState) -> list[OpticsGroup]:
    """Return the optics groups packed by `pack_state`."""
    return [OpticsGroup(**fields) for fields in json.loads(str(state.scalars["optics_groups"]))]
