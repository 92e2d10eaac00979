"""How many particles a second go through the whole daemon, and in how much memory?

A simulated session is written first, as fast as possible. Then `streamrecon run --until-idle 5` works through it:
watching, settling, ledger, feed, reconstruction, checkpoints, snapshots, publishing, all as configured by default.

  start-up     from the command to the first folded batch: imports, compilation (the first time only; kernels are
               kept on disk), settling, contrast
  particles/s  between the first and the last folded batch, from the daemon's own status messages
  engine       particles/s of the folds alone in the same run: the ratio is what all the rest costs
  memory       highest resident memory of each process, looked at five times a second

About a minute and a half. Example: python -m benchmarks.throughput --particles 2000
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import parser, print_machine, print_table, write_json
from streamrecon.client import StatusMessage, VolumeSubscriber
from streamrecon.compare.session import SessionPorts, free_ports, write_session_config
from streamrecon.errors import TransportError

_SILENT_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_VERBS = ("ingest", "worker", "run")


@dataclass
class _Followed:
    """What the status messages said: when, how many particles, and how long the fold took."""

    at: list[float] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    fold_rate: list[float] = field(default_factory=list)
    resolution_angstrom: float | None = None


def _follow(ports: SessionPorts, followed: _Followed) -> None:
    with VolumeSubscriber(
        ports.events, None, ports.snapshots, topics=("status/",), timeout_seconds=_SILENT_SECONDS
    ) as messages:
        try:
            for message in messages:
                if isinstance(message, StatusMessage) and message.header.images_per_second:
                    followed.at.append(message.header.timestamp)
                    followed.seen.append(message.header.particles_seen)
                    followed.fold_rate.append(message.header.images_per_second)
                    followed.resolution_angstrom = message.header.resolution_angstrom
        except TransportError as error:
            # the daemon has gone without a farewell; its exit code says more
            print(f"no more status messages: {error}")


def _note_memory(root: psutil.Process, peak: dict[str, int]) -> None:
    """Keep the highest resident memory of the daemon's processes, by verb, and of all together."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            arguments, resident = process.cmdline(), process.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
        verb = next((v for v in _VERBS if v in arguments), "other")
        peak[verb] = max(peak.get(verb, 0), resident)
        total += resident
    peak["all"] = max(peak.get("all", 0), total)


def _simulate(folder: Path, particles: int, box: int) -> float:
    began = time.monotonic()
    subprocess.run(
        [
            sys.executable, "-m", "streamrecon", "simulate", str(folder / "incoming"), "--truth", str(folder / "truth"),
            "--particles", str(particles), "--box", str(box), "--pixel-size", str(204.8 / box), "--rate", "0",
            "--seed", "1",
        ],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - began


def run(folder: Path, particles: int, box: int) -> dict[str, Any]:
    """Simulate and reconstruct; return the figures.

    Raises
    ------
    RuntimeError
        The daemon failed, or did not fold every particle.
    """
    simulated_seconds = _simulate(folder, particles, box)
    ports = free_ports()
    config = write_session_config(folder, ports, seed=1)
    followed, peak = _Followed(), dict[str, int]()
    follower = threading.Thread(target=_follow, args=(ports, followed), daemon=True)
    started = time.time()
    with (folder / "daemon.log").open("wb") as log:
        daemon = psutil.Popen(
            [sys.executable, "-m", "streamrecon", "run", "-c", str(config), "--until-idle", "5"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            follower.start()
            while daemon.poll() is None:
                _note_memory(daemon, peak)
                time.sleep(_LOOK_SECONDS)
        finally:
            if daemon.poll() is None:
                daemon.terminate()
                daemon.wait(60)
    follower.join(10)
    ended = time.time()
    if daemon.returncode != 0 or not followed.seen or followed.seen[-1] != particles:
        tail = (folder / "daemon.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"exit code {daemon.returncode}, {followed.seen[-1:]} of {particles} folded:\n{tail}")
    seconds = followed.at[-1] - followed.at[0]
    rate = (followed.seen[-1] - followed.seen[0]) / seconds
    # folds are of equal size but for the last: their mean time is the mean of the inverse rates
    engine_rate = len(followed.fold_rate) / sum(1 / r for r in followed.fold_rate)
    return {
        "particles": particles,
        "box_size": box,
        "simulated_seconds": simulated_seconds,
        "start_up_seconds": followed.at[0] - started,
        "folding_seconds": seconds,
        "particles_per_second": rate,
        "engine_images_per_second": engine_rate,
        "ratio_to_engine": rate / engine_rate,
        "whole_run_seconds": ended - started,
        "peak_resident_bytes": peak,
        "resolution_angstrom": followed.resolution_angstrom,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=8000, metavar="N", help="how many (default: 8000)")
    options.add_argument("--box", type=int, default=64, metavar="PX", help="box size (default: 64)")
    chosen = options.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory(prefix="streamrecon-throughput-") as name:
        result = run(Path(name), chosen.particles, chosen.box)
    print(
        f"{result['particles']} particles of {result['box_size']} px, written in {result['simulated_seconds']:.0f} s; "
        f"daemon from command to end {result['whole_run_seconds']:.0f} s"
    )
    print_table(
        [
            {"figure": "start-up", "value": result["start_up_seconds"], "unit": "s"},
            {"figure": "first to last fold", "value": result["folding_seconds"], "unit": "s"},
            {"figure": "daemon", "value": result["particles_per_second"], "unit": "particles/s"},
            {"figure": "engine alone, same run", "value": result["engine_images_per_second"], "unit": "images/s"},
            {"figure": "daemon / engine", "value": result["ratio_to_engine"], "unit": ""},
            *(
                {"figure": f"peak memory, {verb}", "value": size / 2**20, "unit": "MiB"}
                for verb, size in sorted(result["peak_resident_bytes"].items())
                if size >= 2**20
            ),
        ]
    )
    write_json(chosen.json, result)


if __name__ == "__main__":
    main()
