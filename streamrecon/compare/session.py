"""A throw-away session on this machine: free ports, a configuration, its figures read back over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from streamrecon.monitor.ports import unused_ports


@dataclass(frozen=True)
class SessionPorts:
    """Loopback endpoints of a session."""

    feed: str
    events: str
    volumes: str
    snapshots: str
    monitor: str
    control: str


def free_ports() -> SessionPorts:
    """Return endpoints on ports that were free a moment ago, so that two sessions can run side by side."""
    *ports, monitor = unused_ports(6)
    feed, events, volumes, snapshots, control = (f"tcp://127.0.0.1:{port}" for port in ports)
    return SessionPorts(feed, events, volumes, snapshots, f"127.0.0.1:{monitor}", control)


def write_session_config(
    folder: Path,
    ports: SessionPorts,
    *,
    seed: int,
    settle_seconds: float = 1.0,
    output: str = "session",
    final_sweeps: int | None = None,
) -> Path:
    """Write ``folder/config.toml`` that watches ``incoming`` and writes to ``output``, both in the folder."""
    refinement = "" if final_sweeps is None else f"\n[refinement]\nfinal_sweeps = {final_sweeps}\n"
    path = folder / "config.toml"
    path.write_text(
        f"""[session]
output_dir = "{output}"
seed = {seed}

[watch]
root = "incoming"
settle_seconds = {settle_seconds}
scan_seconds = 2.0

[feed]
endpoint = "{ports.feed}"
batch_wait_seconds = 2.0

[publish]
events = "{ports.events}"
volumes = "{ports.volumes}"
snapshots = "{ports.snapshots}"

[control]
endpoint = "{ports.control}"

[monitor]
bind = "{ports.monitor}"
{refinement}""",
        encoding="utf-8",
    )
    return path


def scrape(bind: str) -> dict[str, float]:
    """Return the samples of a /metrics page by name, labels left out and summed; empty if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{bind}/metrics", timeout=2) as response:
            text = response.read().decode()
    except (urllib.error.URLError, OSError):
        return {}
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            figures[sample.name] = figures.get(sample.name, 0.0) + sample.value
    return figures
