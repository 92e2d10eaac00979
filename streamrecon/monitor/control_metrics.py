"""What the control socket tells, for Prometheus; served by the worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from streamrecon.monitor.naming import OTHER, makers, one_of
from streamrecon.transport.control_schema import REFUSAL_KINDS, VERBS
from streamrecon.transport.handshake import REFUSAL_REASONS


class ControlMetrics:
    """Counts commands and refusals."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = makers(registry, "control")
        self._commands = counter("commands_total", "Commands obeyed or answered with a reason why not.", ("verb",))
        self._messages = counter(
            "messages_refused_total",
            "Messages not obeyed, by reason: replayed, a key taken away, garbage, another version, too many at once.",
            ("reason",),
        )
        self._peers = counter(
            "peers_refused_total",
            "Connections to the control socket refused, by reason: an unknown key, plaintext, a failed handshake.",
            ("reason",),
        )
        self._paused = gauge("paused", "1 while folding is paused by command.")
        for verb in (*VERBS, OTHER):
            self._commands.labels(verb)
        for kind in (*REFUSAL_KINDS, OTHER):
            self._messages.labels(kind)
        for reason in (*REFUSAL_REASONS, OTHER):
            self._peers.labels(reason)

    def command(self, verb: str) -> None:
        """Count a command that was answered."""
        self._commands.labels(one_of(verb, VERBS)).inc()

    def message_refused(self, kind: str) -> None:
        """Count a message that was not obeyed."""
        self._messages.labels(one_of(kind, REFUSAL_KINDS)).inc()

    def peer_refused(self, reason: str) -> None:
        """Count a connection that was refused."""
        self._peers.labels(one_of(reason, REFUSAL_REASONS)).inc()

    def paused(self, paused: bool) -> None:
        """Say whether folding is paused."""
        self._paused.set(paused)
