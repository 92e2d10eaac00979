"""Where a session stands, in words for people: one headline and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["starting", "waiting", "searching", "settled", "refining", "finished", "stopped", "failed", "lost"]


@dataclass(frozen=True)
class Facts:
    """What is known of a session.

    Attributes
    ----------
    heard : bool
        Whether the worker has been heard within the time limit.
    ever_heard : bool
    silence : str
        Why it is not heard, if so.
    end_reason : str or None
        Of the session's end message; None while it runs.
    status : mapping
        Header of the last ``status/`` message; empty before the first.
    ledger : mapping
        As `streamrecon status --json` has it; empty while there is none.
    """

    heard: bool = False
    ever_heard: bool = False
    silence: str = ""
    end_reason: str | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    ledger: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The headline, one sentence below it, and a short name for style sheets and tests."""

    kind: Kind
    title: str
    text: str


@dataclass(frozen=True)
class SymmetryWords:
    """What the page says of the symmetry; ``alert``: somebody should look."""

    text: str
    reason: str
    alert: bool


def symmetry_words(status: Mapping[str, Any], assessment: Mapping[str, Any]) -> SymmetryWords:
    """Return in words what symmetry is imposed, or seen, or taken back.

    Parameters
    ----------
    status, assessment : mapping
        Headers of the last messages; empty before the first.
    """
    group, taken_back = status.get("symmetry", "C1"), status.get("symmetry_taken_back", "")
    reason = str(status.get("symmetry_reason", ""))
    if group != "C1":
        contradicted = bool(status.get("symmetry_contradicted"))
        return SymmetryWords(f"{group} imposed" + ", contradicted by the images" * contradicted, reason, contradicted)
    if taken_back:
        return SymmetryWords(f"{taken_back} taken back", reason, alert=True)
    found = assessment.get("symmetry") or {}
    if found.get("group", "C1") != "C1":
        return SymmetryWords(f"{found['group']} seen, not imposed", reason or str(found.get("note", "")), alert=False)
    return SymmetryWords("no symmetry imposed" if status else "", reason, alert=False)


def state_of(facts: Facts) -> State:
    """Return the state of a session in words."""
    seen = int(facts.status.get("particles_seen", 0))
    if facts.end_reason is not None:
        return _ended(facts.end_reason, seen, _at(facts.status))
    if not facts.heard:
        if facts.ever_heard:
            text = facts.silence or "It has stopped or is being started again."
            return State("lost", "The worker is silent", f"{text} What is below is the last that was heard.")
        text = "The first start compiles for some ten seconds."
        return State("starting", "Starting", f"Waiting for the worker. {facts.silence or text}")
    if seen == 0:
        return State("waiting", "Waiting for particles", _waiting(facts.ledger))
    stage = facts.status.get("stage")
    n = f"{seen:,} particles"
    if stage == "searching":
        text = f"Poses are still searched everywhere; the map takes shape. {n} so far."
        return State("searching", "Searching for the first map", text)
    if stage == "refining":
        kind = (
            "each half against its own map" if facts.status.get("fsc_kind") == "gold_standard" else "from the first map"
        )
        return State("refining", "Refining", f"{n} in the map{_at(facts.status)}; {kind}.")
    if stage == "settled":
        return State("settled", "First map found, sharpening it", f"{n} in the map{_at(facts.status)}.")
    return State("settled", str(stage).capitalize(), f"{n} in the map{_at(facts.status)}.")


def _ended(reason: str, seen: int, at: str) -> State:
    if reason in ("drained", "finished"):
        return State("finished", "Finished", f"All {seen:,} particles are in the map{at}. Maps and poses are below.")
    if reason == "stopped":
        text = f"{seen:,} particles are in the map{at}. Started again, the session goes on from here."
        return State("stopped", "Stopped", text)
    return State("failed", "The worker has failed", f"It said: {reason}. The daemon starts it again if that can help.")


def _waiting(ledger: Mapping[str, Any]) -> str:
    stacks = sum(ledger.get("stacks", {}).values())
    particles = ledger.get("particles", {})
    ready = particles.get("ready", 0) + particles.get("queued", 0)
    if ready:
        return f"{ready:,} particles wait for the worker, whose first batch waits for its compiler."
    if stacks:
        return f"{stacks:,} stacks have been seen; none is complete and listed yet."
    return "Nothing has appeared in the watched folder yet."


def _at(status: Mapping[str, Any]) -> str:
    resolution = status.get("resolution_angstrom")
    return "" if resolution is None else f", at {resolution:.1f} Å"
