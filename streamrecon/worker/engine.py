"""From the configuration to an engine on the right backend, on one device or on several."""

from __future__ import annotations

import os

import structlog

from streamrecon.compute.backend import Backend
from streamrecon.compute.choose import BackendName, ComputeSettings, choose_backend
from streamrecon.config.model import Config
from streamrecon.reconstruct.collective import ALONE
from streamrecon.reconstruct.results import EngineLike
from streamrecon.worker.ranks.shared_engine import SharedEngine, engine_of_rank
from streamrecon.worker.ranks.team import Team

_log = structlog.get_logger(__name__)


def make_backend(config: Config, rank: int = 0, kind: BackendName | None = None) -> Backend:
    """Make the backend that the configuration means, and log which it is and why.

    Parameters
    ----------
    config : Config
    rank : int
        Which of ``compute.devices`` it is for.
    kind : {"auto", "cpu", "cuda"}, optional
        In place of ``compute.backend``: what rank 0 has found.

    Raises
    ------
    DeviceError
        The configuration asks for a device that cannot be used.
    """
    compute = config.compute
    device = compute.devices[rank]
    settings = ComputeSettings(
        backend=kind or compute.backend,
        device=device,
        memory_share=compute.memory_share / compute.devices.count(device),
        cube_precision=compute.cube_precision,
        tf32=compute.tf32,
    )
    threads = config.engine.threads
    if not threads and len(compute.devices) > 1 and settings.backend == "cpu":
        threads = max(1, len(os.sched_getaffinity(0)) // len(compute.devices))
    chosen = choose_backend(settings, threads)
    _log.info("compute backend", backend=chosen.backend.name, reason=chosen.reason)
    return chosen.backend


def make_engine(config: Config, box_size: int, pixel_size_angstrom: float) -> EngineLike:
    """Make the engine of a session; with several devices it has a process for each of them but the first.

    Raises
    ------
    NumericalError
        The box cannot be used.
    DeviceError
        The configuration asks for a device that cannot be used.
    """
    if config.engine.method != "online_em":
        _log.info(
            "particles are not visited again", method=config.engine.method, reason="its steps cannot be taken back"
        )
    backend = make_backend(config)
    # "auto" that has found no GPU: one process uses all cores
    if len(config.compute.devices) > 1 and (backend.name == "cuda" or config.compute.backend == "cpu"):
        team = Team(config.compute.devices, config.compute.patience_seconds)
        return SharedEngine(config, box_size, pixel_size_angstrom, backend, team)
    return engine_of_rank(config, box_size, pixel_size_angstrom, backend, ALONE)
