"""Looking after a running session: metrics, their HTTP side, logs, and the supervisor."""
