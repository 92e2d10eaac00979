"""From the configuration to an engine on the right backend."""

from __future__ import annotations

from streamrecon.compute.cpu import CpuBackend
from streamrecon.config.model import Config
from streamrecon.reconstruct.engine import Engine


def make_engine(config: Config, box_size: int, pixel_size_angstrom: float) -> Engine:
    """Make the engine of a session.

    Raises
    ------
    NumericalError
        The box cannot be used.
    """
    backend = CpuBackend(config.engine.threads)
    keep = config.refinement.store_megabytes > 0
    return Engine(config.engine, box_size, pixel_size_angstrom, backend, config.session.seed, keep=keep)
