"""``streamrecon demo``: a microscope, the daemon and a subscriber on this machine, and a report at the end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from streamrecon.assess.align import align_volumes, fsc_between
from streamrecon.cli.exit_codes import INTERRUPTED, errors_as_exit_codes
from streamrecon.client import StatusMessage, VolumeSubscriber
from streamrecon.compare.contact_sheet import Progress, draw_contact_sheet
from streamrecon.compare.session import SessionPorts, free_ports, scrape, write_session_config
from streamrecon.errors import StateError, StreamReconError, TransportError
from streamrecon.io import read_volume
from streamrecon.transport.schema import StatusHeader

_FAILED = 1
_MARKER = ".streamrecon-demo"
_TARGET_PIXELS = 4.0  # FSC 0.5 against the truth must reach this many pixels
_SILENT_SECONDS = 120.0  # the first batch waits for the compiler


@dataclass
class _Watched:
    """What the console shows."""

    started: float = field(default_factory=time.monotonic)
    status: StatusHeader | None = None
    particles_in: int = 0
    lag_seconds: float = 0.0
    progress: Progress = field(default_factory=lambda: Progress([], []))

    def table(self, total: int) -> Table:
        """Return the live display."""
        s = self.status
        rows = {
            "particles in": f"{self.particles_in} of {total}",
            "folded": "0" if s is None else str(s.particles_seen),
            "lag": f"{self.lag_seconds:.1f} s",
            "images/s": "-" if s is None or s.images_per_second is None else f"{s.images_per_second:.0f}",
            "stage": "starting: compiling kernels" if s is None else f"{s.stage}, band {s.k_max} shells",
            "ESS": "-" if s is None or s.effective_sample_size is None else f"{s.effective_sample_size:.1f}",
            "resolution": "-" if s is None or s.resolution_angstrom is None else f"{s.resolution_angstrom:.1f} Å",
            "elapsed": f"{time.monotonic() - self.started:.0f} s",
        }
        table = Table(title="streamrecon demo", show_header=False)
        for name, value in rows.items():
            table.add_row(name, value)
        return table


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything; made anew.")] = Path(
        "demo-out"
    ),
    particles: Annotated[int, typer.Option(min=500, help="How many particles the microscope delivers.")] = 8000,
    rate: Annotated[float, typer.Option(min=0, help="Particles a second; 0: as fast as they can be made.")] = 150.0,
    snr: Annotated[float, typer.Option(help="Signal variance over noise variance.")] = 0.1,
    box: Annotated[int, typer.Option(min=32, help="Box size, pixels.")] = 64,
    pixel_size: Annotated[float, typer.Option(min=0.1, help="Angstrom a pixel.")] = 3.2,
    seed: Annotated[int, typer.Option(min=0, help="Of particles and random start.")] = 1,
) -> None:
    """Reconstruct F1-ATPase while a simulated microscope delivers it, and compare with the truth.

    Ends by itself, in about two minutes. Exit code 1 if the map misses FSC 0.5 at four pixels.

    Example, a smaller one: streamrecon demo --particles 4000 -o small
    """
    console = Console(highlight=False)
    with errors_as_exit_codes():
        _make_folder(output)
        ports = free_ports()
        config = write_session_config(output, ports, seed=seed, final_sweeps=1)
        source = [
            "simulate", str(output / "incoming"), "--truth", str(output / "truth"), "--particles", str(particles),
            "--rate", str(rate), "--snr", str(snr), "--box", str(box), "--pixel-size", str(pixel_size),
            "--seed", str(seed),
        ]  # fmt: skip
        try:
            watched = _run_session(output, config, ports, source, particles, console)
        except KeyboardInterrupt:
            console.print(f"Stopped; what there is lies in {output}")
            raise typer.Exit(INTERRUPTED) from None
        passed = _report(output, watched, particles, pixel_size, console)
    raise typer.Exit(0 if passed else _FAILED)


def _make_folder(output: Path) -> None:
    """Make the folder anew; only a folder that an earlier demo made is thrown away."""
    if output.exists() and any(output.iterdir()) and not (output / _MARKER).exists():
        raise StateError(f"{output}: exists and is not an earlier demo's; choose another folder with --output")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / _MARKER).touch()


def _run_session(
    output: Path, config: Path, ports: SessionPorts, source: list[str], total: int, console: Console
) -> _Watched:
    """Run microscope, daemon and subscriber until the daemon has drained."""
    watched = _Watched()
    with ExitStack() as stack:
        daemon_log = stack.enter_context((output / "daemon.log").open("wb"))
        daemon = stack.enter_context(
            _process(["run", "-c", str(config), "--until-idle", "5"], daemon_log, "daemon", output)
        )
        stack.enter_context(
            _process(source, stack.enter_context((output / "microscope.log").open("wb")), "microscope", output)
        )
        console.print(f"Look: http://{ports.monitor}")
        follower = threading.Thread(target=_follow, args=(ports, watched), daemon=True)
        follower.start()
        live = stack.enter_context(Live(watched.table(total), console=console, refresh_per_second=4))
        while daemon.poll() is None:
            figures = scrape(ports.monitor)
            watched.particles_in = int(figures.get("streamrecon_ingest_particles_ready_total", watched.particles_in))
            watched.lag_seconds = figures.get("streamrecon_ingest_lag_seconds", 0.0)
            live.update(watched.table(total))
            time.sleep(0.5)
        follower.join(timeout=5)
        live.update(watched.table(total))
        if daemon.returncode:
            raise StreamReconError(
                f"the daemon ended with exit code {daemon.returncode}; {output / 'daemon.log'} says why"
            )
    return watched


def _follow(ports: SessionPorts, watched: _Watched) -> None:
    """Take in the session's status messages until it ends."""
    with VolumeSubscriber(ports.events, None, ports.snapshots, timeout_seconds=_SILENT_SECONDS) as messages:
        try:
            for message in messages:
                if isinstance(message, StatusMessage):
                    _take(watched, message.header)
        except TransportError:
            # the daemon is gone; the caller watches the process itself and says why
            return


def _take(watched: _Watched, status: StatusHeader) -> None:
    watched.status = status
    if status.resolution_angstrom is not None and status.particles_seen:
        watched.progress.particles_seen.append(status.particles_seen)
        watched.progress.resolution_angstrom.append(status.resolution_angstrom)


@contextmanager
def _process(arguments: list[str], log: IO[bytes], name: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our verbs beside us; it is asked to stop, then made to, when we leave."""
    command = [sys.executable, "-m", "streamrecon", *arguments]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise TransportError(f"the {name} did not stop when asked; see the logs in {output}") from None


def _report(output: Path, watched: _Watched, total: int, pixel_size: float, console: Console) -> bool:
    """Compare with the truth, draw the sheet, say what came out; return whether the target was met."""
    folder = output / "session" / "snapshots"
    truth, voxel = read_volume(output / "truth" / "truth.mrc")
    volume, _ = read_volume(folder / "volume.mrc")
    halves = [read_volume(folder / f"half_{h}.mrc")[0] for h in ("a", "b")]
    with console.status("Aligning the map to the truth"):
        aligned = align_volumes(truth, volume, voxel)
    to_truth = fsc_between(truth, aligned.volume, voxel)
    between = fsc_between(halves[0], halves[1], voxel)
    seconds = time.monotonic() - watched.started
    seen, visits = (0, 0) if watched.status is None else (watched.status.particles_seen, watched.status.image_visits)
    sheet = output / "contact_sheet.png"
    draw_contact_sheet(
        sheet,
        f"F1-ATPase, random start, {seen} particles, {visits} image visits",
        {"truth": truth, "map": aligned.volume},
        {"map against truth": to_truth, "half-maps": between},
        watched.progress,
    )
    hand = "the other hand (mirrored for the comparison)" if aligned.mirrored else "the true hand"
    target = _TARGET_PIXELS * pixel_size
    passed = to_truth.resolution_05_angstrom <= target and seen == total
    console.print(f"{seen} of {total} particles folded, {visits} image visits, in {seconds:.0f} s")
    console.print(
        f"hand: {hand}; correlation {aligned.correlation:.2f}, the opposite hand {aligned.other_hand_correlation:.2f}"
    )
    console.print(
        f"against the truth: FSC 0.5 at {to_truth.resolution_05_angstrom:.1f} Å "
        f"(target {target:.1f} Å), 0.143 at {to_truth.resolution_0143_angstrom:.1f} Å"
    )
    console.print(f"between the halves: FSC 0.143 at {between.resolution_0143_angstrom:.1f} Å")
    console.print(f"maps: {folder}  poses: {output / 'session' / 'particles.star'}  picture: {sheet}")
    console.print("[bold green]passed[/]" if passed else "[bold red]missed the target[/]")
    return passed
