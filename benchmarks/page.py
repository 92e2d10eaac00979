"""What does the live page cost, and how quick is it?

The daemon works through simulated particles that are all there from the start, in four sessions that are the same to
the last bit: nobody looks; the page is open in a real Chromium and twenty programs subscribe to everything, twice;
nobody looks. Stages of a reconstruction differ in speed, so it is whole sessions that are compared.

  first paint  from the request to the first contentful paint, the browser's cache empty; median of five
  latency      from the time in a snapshot's header to its slices drawn on the open page; median and highest
  particles/s  of the worker from its first batch to its last, with and without onlookers, and its processor seconds for
               1000 particles; the ratio of the two is the onlookers' price, the spread of two like sessions the noise

Browser and subscribers run at the lowest priority, for they stand in for other people's machines. About three minutes
on an idle machine; needs Debian's chromium and chromium-driver. Example: python -m benchmarks.page --particles 4000
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import parser, print_machine, print_table, write_json
from streamrecon.compare.session import SessionPorts, free_ports, scrape, write_session_config
from tests.e2e.browser import Browser, browser

_LOWEST = 19
_PAINTS = 5
_SEEN = "streamrecon_worker_particles_seen"
_SUBSCRIBERS = """
import os, sys, threading
from streamrecon.client import VolumeSubscriber
from streamrecon.errors import TransportError
os.nice(int(sys.argv[2]))
def follow():
    try:
        with VolumeSubscriber(*sys.argv[3:6], timeout_seconds=60) as messages:
            for message in messages:
                pass
    except TransportError:
        pass
for _ in range(int(sys.argv[1])):
    threading.Thread(target=follow, daemon=True).start()
print("following", flush=True)
threading.Event().wait()
"""
# the time at which the slices of each version of the map were drawn, beside the time in its header
_STOPWATCH = """
window.latencies = [];
const made = {};
const listener = new EventSource('/events');
listener.addEventListener('maps', event => {
  const map = JSON.parse(event.data).maps.full;
  if (map) made[map.version] = map.timestamp;
});
const slices = document.getElementById('slices');
let first = true;
slices.addEventListener('load', () => {
  const version = decodeURIComponent(new URL(slices.src).searchParams.get('v'));
  const drawn = Date.now() / 1000;
  if (!first && made[version]) window.latencies.push(drawn - made[version]);
  first = false;
});
"""


@contextmanager
def _running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _verb(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamrecon", *arguments]


def _seen(ports: SessionPorts) -> int:
    return int(scrape(ports.monitor).get(_SEEN, 0))


def _worker(daemon: subprocess.Popen[bytes]) -> psutil.Process:
    while daemon.poll() is None:
        for process in psutil.Process(daemon.pid).children():
            if "worker" in process.cmdline():
                return process
        time.sleep(0.05)
    raise RuntimeError("the daemon ended before it had a worker")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _followed(ports: SessionPorts, worker: psutil.Process, particles: int) -> dict[str, float]:
    """Watch until all particles are in the map; return the worker's rate and price, from a batch's end to another's."""
    while (first := _seen(ports)) == 0:
        time.sleep(0.02)
    began, cpu = time.monotonic(), sum(worker.cpu_times()[:2])
    while (now := _seen(ports)) < particles:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    return {"rate": (now - first) / seconds, "cpu": 1000 * (sum(worker.cpu_times()[:2]) - cpu) / (now - first)}


def _first_paint(onlooker: Browser, url: str) -> float:
    paint = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    times = []
    for _ in range(_PAINTS):
        onlooker.open("about:blank")
        onlooker.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        onlooker.open(url)
        times.append(float(onlooker.wait(lambda: onlooker.run(paint))))
    return statistics.median(times) / 1000


@contextmanager
def _onlookers(onlooker: Browser, ports: SessionPorts, subscribers: int) -> Iterator[None]:
    """Open the page and subscribe; when we leave, nobody looks any more."""
    command = [sys.executable, "-c", _SUBSCRIBERS, str(subscribers), str(_LOWEST)]
    with subprocess.Popen(
        [*command, ports.events, ports.volumes, ports.snapshots], stdout=subprocess.PIPE
    ) as following:
        try:
            if following.stdout is not None:
                following.stdout.readline()
            onlooker.open(f"http://{ports.monitor}/")
            onlooker.run(_STOPWATCH)
            yield
        finally:
            following.kill()


def _session(folder: Path, name: str, particles: int, subscribers: int) -> dict[str, Any]:
    """Run a session over ``folder/incoming``, watched by so many subscribers and the page, or by nobody if 0."""
    ports = free_ports()
    config = write_session_config(folder, ports, seed=1, output=name)
    with ExitStack() as stack:
        onlooker = stack.enter_context(browser())
        _give_way(onlooker)
        daemon = stack.enter_context(_running(_verb("run", "-c", str(config)), folder / f"{name}.log"))
        worker = _worker(daemon)
        while not _answers(f"http://{ports.monitor}/"):
            time.sleep(0.05)
        if subscribers:
            with _onlookers(onlooker, ports, subscribers):
                found: dict[str, Any] = _followed(ports, worker, particles)
                found["latencies"] = [float(x) for x in onlooker.run("return window.latencies")]
            found["paint"] = _first_paint(onlooker, f"http://{ports.monitor}/")
            return found
        return {**_followed(ports, worker, particles)}


def measure(folder: Path, particles: int, box: int, subscribers: int) -> dict[str, Any]:
    """Run the sessions and return their figures."""
    source = ["simulate", str(folder / "incoming"), "--truth", str(folder / "truth"), "--rate", "0"]
    pixel = f"{204.8 / box:g}"
    more = ["--particles", str(particles), "--box", str(box), "--pixel-size", pixel]
    subprocess.run(_verb(*source, *more), check=True, stdout=subprocess.DEVNULL)
    sessions: dict[str, list[dict[str, Any]]] = {"nobody": [], "onlookers": []}
    with _session_at_lowest():
        for number, who in enumerate(("nobody", "onlookers", "onlookers", "nobody")):
            sessions[who].append(_session(folder, f"session_{number}", particles, subscribers * (who == "onlookers")))
    watched = sessions["onlookers"]
    latencies = [latency for session in watched for latency in session["latencies"]]
    mean = {who: {k: statistics.mean(t[k] for t in found) for k in ("rate", "cpu")} for who, found in sessions.items()}
    return {
        "first_paint_seconds": statistics.median(session["paint"] for session in watched),
        "latency_median_seconds": statistics.median(latencies) if latencies else None,
        "latency_highest_seconds": max(latencies, default=None),
        "snapshots_timed": len(latencies),
        "sessions": sessions,
        "mean": mean,
        "rate_ratio": mean["onlookers"]["rate"] / mean["nobody"]["rate"],
        "cpu_ratio": mean["onlookers"]["cpu"] / mean["nobody"]["cpu"],
    }


@contextmanager
def _session_at_lowest() -> Iterator[None]:
    """Lower the claim of this session's processes (not the daemon's, whose processes have sessions of their own).

    Where Linux groups processes by session (sched_autogroup), niceness counts only within one.
    """
    autogroup = Path("/proc/self/autogroup")
    if not autogroup.exists():
        yield
        return
    before = autogroup.read_text(encoding="ascii").rsplit(" ", 1)[1]
    autogroup.write_text(str(_LOWEST), encoding="ascii")
    try:
        yield
    finally:
        time.sleep(0.2)  # the kernel takes one change in a tenth of a second
        autogroup.write_text(before, encoding="ascii")


def _give_way(onlooker: Browser) -> None:
    """Lower the browser's priority: that of every thread, for Linux keeps one for each."""
    root = psutil.Process(onlooker.driver.service.process.pid)
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            for thread in process.threads():
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, thread.id, _LOWEST)


def main() -> None:
    """Run, print, write."""
    options = parser(__doc__)
    options.add_argument("--particles", type=int, default=12_000)
    options.add_argument("--box", type=int, default=64)
    options.add_argument("--subscribers", type=int, default=20)
    arguments = options.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.particles, arguments.box, arguments.subscribers)
    print(f"first paint {found['first_paint_seconds']:.2f} s")
    if found["snapshots_timed"]:
        print(
            f"snapshot to page: median {found['latency_median_seconds']:.2f} s, "
            f"highest {found['latency_highest_seconds']:.2f} s, of {found['snapshots_timed']}"
        )
    rows = [
        {"session": f"{who}, {number + 1}", "particles/s": session["rate"], "cpu s per 1000": session["cpu"]}
        for who, of_them in found["sessions"].items()
        for number, session in enumerate(of_them)
    ]
    print_table(rows)
    print(
        f"with the page open and {arguments.subscribers} subscribers: particles/s x {found['rate_ratio']:.3f}, "
        f"processor time a particle x {found['cpu_ratio']:.3f}"
    )
    write_json(arguments.json, found)


if __name__ == "__main__":
    main()
