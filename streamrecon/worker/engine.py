"""From the configuration to an engine on the right backend."""

from __future__ import annotations

import structlog

from streamrecon.compute.backend import Backend
from streamrecon.compute.choose import ComputeSettings, choose_backend
from streamrecon.config.model import Config
from streamrecon.reconstruct.engine import Engine

_log = structlog.get_logger(__name__)


def make_backend(config: Config) -> Backend:
    """Make the backend that the configuration means, and log which it is and why.

    Raises
    ------
    DeviceError
        The configuration asks for a device that cannot be used.
    """
    settings = ComputeSettings(**config.compute.model_dump())
    chosen = choose_backend(settings, config.engine.threads)
    _log.info("compute backend", backend=chosen.backend.name, reason=chosen.reason)
    return chosen.backend


def make_engine(config: Config, box_size: int, pixel_size_angstrom: float) -> Engine:
    """Make the engine of a session.

    Raises
    ------
    NumericalError
        The box cannot be used.
    DeviceError
        The configuration asks for a device that cannot be used.
    """
    backend = make_backend(config)
    keep = config.refinement.store_megabytes > 0
    return Engine(config.engine, box_size, pixel_size_angstrom, backend, config.session.seed, keep=keep)
