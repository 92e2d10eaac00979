"""The worker's gauges of what refinement has decided: symmetry, random starts, sweeps."""

from __future__ import annotations

from prometheus_client import Gauge

from streamrecon.geometry.symmetry import symmetry_operators
from streamrecon.monitor.naming import Maker
from streamrecon.reconstruct.results import EngineStatus


class RefinementGauges:
    """Gauges of the worker's registry.

    Parameters
    ----------
    gauge : Maker
        Of the worker's prefix.
    """

    def __init__(self, gauge: Maker[Gauge]) -> None:
        self._copies = gauge("symmetry_copies", "Copies of the particle that the imposed symmetry makes; 1: none is.")
        self._gain = gauge(
            "symmetry_gain_nats",
            "By how much a map without the imposed symmetry explains new images better, an image. NaN: not known.",
        )
        self._contradicted = gauge(
            "symmetry_contradicted", "1 while images contradict the symmetry that was asked for."
        )
        self._starts = gauge("starts", "Random starts that run side by side now.")
        self._agreement = gauge(
            "start_agreement_ratio",
            "How alike the maps of the last two starts are: 1 the same, 0 nothing in common. NaN: not compared yet.",
        )
        self._challenges = gauge("start_challenges", "Fresh random starts that the reconstruction was held against.")
        self._sweeps = gauge("revisit_sweeps", "Sweeps over the kept particles finished since new particles came.")
        self._finishing = gauge("finishing", "1 while the stream is over and the last sweeps are made.")
        self._group = ""
        self._copies.set(1)
        self._gain.set(float("nan"))
        self._starts.set(1)
        self._agreement.set(float("nan"))

    def status(self, status: EngineStatus) -> None:
        """Follow the engine."""
        if status.symmetry != self._group:
            self._group = status.symmetry
            self._copies.set(len(symmetry_operators(status.symmetry)))
        self._gain.set(status.symmetry_gain)
        self._contradicted.set(status.symmetry_contradicted)
        self._starts.set(status.starts)
        self._agreement.set(status.start_agreement)
        self._challenges.set(status.challenges)

    def sweeps(self, finished: int, *, finishing: bool) -> None:
        """Say how many sweeps were made, and whether the stream is over."""
        self._sweeps.set(finished)
        self._finishing.set(finishing)
