"""What of an engine's status is news to people: the stage, the symmetry, the random starts."""

from __future__ import annotations

import math
from collections.abc import Callable

from streamrecon.reconstruct.results import EngineStatus

Tell = Callable[..., None]


class StatusNews:
    """Tells what has changed since the last status, as events.

    Parameters
    ----------
    tell : callable
        Given a kind, a text and fields.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._stage = ""
        self._symmetry = "C1"
        self._contradicted = False
        self._challenge = ""

    def take(self, status: EngineStatus) -> None:
        """Look at a status."""
        seen = status.particles_seen
        if status.stage != self._stage:
            self._stage = status.stage
            why = f": {status.stage_reason}" if status.stage_reason else ""
            text = f"the reconstruction is {status.stage}{why}"
            self._tell("stage", text, stage=status.stage, reason=status.stage_reason, particles_seen=seen)
        if status.symmetry != self._symmetry:
            before, self._symmetry = self._symmetry, status.symmetry
            imposed = status.symmetry != "C1"
            what = f"{status.symmetry} is imposed from now on" if imposed else f"{before} is no longer imposed"
            text = f"{what} ({status.symmetry_reason})"
            self._tell("symmetry_imposed", text, group=status.symmetry, particles_seen=seen)
        if status.symmetry_contradicted != self._contradicted:
            self._contradicted = status.symmetry_contradicted
            what = "new images contradict" if self._contradicted else "new images contradict no longer"
            text = f"{what} {status.symmetry}, which was asked for and stays imposed ({status.symmetry_reason})"
            gain = {} if math.isnan(status.symmetry_gain) else {"gain_nats": round(status.symmetry_gain, 2)}
            self._tell("symmetry_contradicted", text, group=status.symmetry, contradicted=self._contradicted, **gain)
        if status.challenge_reason != self._challenge:
            self._challenge = status.challenge_reason
            agreement = status.start_agreement
            known = {} if math.isnan(agreement) else {"agreement": round(agreement, 3)}
            self._tell("starts", self._challenge, starts=status.starts, challenges=status.challenges, **known)
