"""The stages of a reconstruction, and what moves it from one to the next: measured state, never a count of N.

searching   annealed search on a common map, short memory
settled     temperature 1, the common map sharpens
refining    the halves on their own: each posed against its own map, so that their FSC is honest
"""

from __future__ import annotations

from dataclasses import dataclass

_REST_UPDATES = 3  # updates in a row at which the band did not want to grow by more than a shell
_LOST_ENTROPY = 2.5  # nats; a coarse posterior this wide has lost what the map looked like
_LOST_EVIDENCE = 0.2  # of what images of this session are worth on average
_LOST_BATCHES = 10
_EVIDENCE_BATCHES = 50.0  # over which that average runs


@dataclass
class Stages:
    """Where the reconstruction stands.

    Attributes
    ----------
    name : str
    reason : str
        What brought it here, for people.
    split : bool
        Whether each half is posed against its own map. After the hand-over it takes until those maps are good enough;
        meanwhile both are posed against the old map's low frequencies.
    """

    name: str = "searching"
    reason: str = "start from random poses"
    split: bool = False
    at_rest: int = 0
    lost: int = 0
    poor: int = 0
    evidence: float = 0.0
    evidence_batches: float = 0.0
    contradiction: str = ""

    def settle(self, entropy: float) -> None:
        """Take note that the annealing is over."""
        if self.name == "searching":
            self.name, self.reason = "settled", f"annealing over, coarse entropy {entropy:.2f} nats"

    def note_band(self, missing_shells: int) -> bool:
        """Take note of how many shells the FSC would have the band grow; return whether to hand over now."""
        if self.name != "settled":
            return False
        self.at_rest = self.at_rest + 1 if missing_shells <= 1 else 0
        return self.at_rest >= _REST_UPDATES

    def hand_over(self, shells: int) -> None:
        """Begin refinement."""
        self.name, self.split = "refining", False
        self.reason = f"band at rest at {shells} shells"

    def note_entropy(self, entropy: float) -> bool:
        """Take note of a batch's coarse entropy; return whether the reconstruction is lost and must search again."""
        if self.name == "searching":
            return False
        self.lost = self.lost + 1 if entropy > _LOST_ENTROPY else 0
        self.contradiction = f"coarse entropy {entropy:.2f} nats"
        return self.lost >= _LOST_BATCHES

    def note_evidence(self, log_evidence: float) -> bool:
        """Take note of a batch's mean log-evidence; return whether it has fallen for good and we must search again.

        The average that it is held against does not follow batches that are far below it.
        """
        if self.name == "searching":
            return False
        known = self.evidence_batches >= _LOST_BATCHES
        if known and log_evidence < _LOST_EVIDENCE * self.evidence:
            self.poor += 1
        else:
            self.poor = 0
            self.evidence_batches = min(self.evidence_batches + 1.0, _EVIDENCE_BATCHES)
            self.evidence += (log_evidence - self.evidence) / self.evidence_batches
        self.contradiction = f"log-evidence {log_evidence:.1f} nats where {self.evidence:.1f} is usual"
        return self.poor >= _LOST_BATCHES

    def search_again(self) -> None:
        """Go back to searching."""
        why = self.contradiction
        self.__dict__.update(Stages(name="searching", reason=f"new images contradict the map: {why}").__dict__)
