"""A disk that is full while ledger, checkpoint, pose table, maps and particles are kept, and has room again later."""

import os
import re
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.e2e.daemon import ended, started, wait_for
from tests.faults.exactly_once import assert_exactly_once, batch_states, folded
from tests.faults.microscope import PER_MICROGRAPH, PacedSession

DISKS = ("ledger", "worker", "both", "store")
_DISK_BYTES = 48 * 2**20
# enough for checkpoints and maps, too little for the store of particles, which takes 16 MiB and leaves as much
_LEFT_BYTES = 20 * 2**20
# come once there is room
_KEPT_BACK = 4
_FILLER = "filler"
# what has to be said while there is no room
_SAID = {
    "ledger": ("ledger_not_writable",),
    "worker": ("checkpoint_failed", "snapshot_failed"),
    "both": ("ledger_not_writable",),
    "store": ("store_cannot_grow",),
}


@dataclass
class DiskReport:
    """What one full disk did."""

    disk: str
    said: tuple
    full_seconds: float
    folded_before: int
    particles: int


@contextmanager
def small_disk(folder):
    """Mount a file system of 48 MiB; needs root.

    Raises
    ------
    PermissionError
        It may not be mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        raise PermissionError(mounted.stderr.decode())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Leave no byte free."""
    descriptor = os.open(folder / _FILLER, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (2**20, 4096, 1):
            while _wrote(descriptor, size):
                pass
    finally:
        os.close(descriptor)


def fill_but_for(folder, n_bytes):
    """Leave so many bytes free."""
    fill(folder)
    filler = folder / _FILLER
    os.truncate(filler, filler.stat().st_size - n_bytes)


def _wrote(descriptor, size):
    try:
        return os.write(descriptor, bytes(size)) > 0
    except OSError:
        return False


def make_room(folder):
    """Free what `fill` took."""
    (folder / _FILLER).unlink()


def run_full_disk(folder, disk, *, seed=1, full_seconds=4.0):
    """Fill the disk of the ledger, of the worker or of both in mid-session; return a `DiskReport`.

    "store": there is room for all but the store of particles, from the start on.

    Raises
    ------
    AssertionError
        A process ended, did not say what is wrong, or a particle was lost or counted twice.
    """
    with ExitStack() as stack:
        session = PacedSession(folder, 16 * PER_MICROGRAPH, seed=seed)
        outputs = {"ledger": folder / "ledger", "worker": session.output}
        if disk == "both":
            outputs["ledger"] = session.output
        full = outputs["ledger" if disk == "ledger" else "worker"]
        stack.enter_context(small_disk(full))
        if disk == "store":
            fill_but_for(full, _LEFT_BYTES)
        configs = {who: _config(session, who, output) for who, output in outputs.items()}
        ingest = stack.enter_context(started("ingest", "-c", configs["ledger"], log=session.log))
        worker = stack.enter_context(started("worker", "-c", configs["worker"], log=session.log))
        session.deliver(6)
        wait_for(lambda: folded(session) >= 6 * PER_MICROGRAPH, worker)
        if disk != "store":
            fill(full)
        began = time.monotonic()
        before = folded(session)
        session.deliver(4)

        def said(word):
            if disk != "store":
                fill(full)  # again: what the daemon removes meanwhile makes room
            return word in session.logged()

        for word in _SAID[disk]:
            wait_for(lambda word=word: said(word), worker)
        while time.monotonic() < began + full_seconds:
            assert ingest.poll() is None, session.logged()[-3000:]
            assert worker.poll() is None, session.logged()[-3000:]
            if session.micrographs_left > _KEPT_BACK:
                session.deliver(1)
            time.sleep(0.5)
        lasted = time.monotonic() - began
        make_room(full)
        session.deliver_all()
        wait_for(lambda: folded(session) >= session.particles, worker)
        if disk == "store":
            assert "checkpoint_failed" not in session.logged()
            wait_for(lambda: "store_grows_again" in session.logged(), worker)
        worker.send_signal(signal.SIGTERM)
        assert ended(worker) == 0, session.logged()[-3000:]
        # its last acknowledgements are on the way, and an ingest that stops reads no more
        wait_for(lambda: batch_states(outputs["ledger"]).keys() == {"folded"}, ingest)
        ingest.send_signal(signal.SIGTERM)
        assert ended(ingest) == 0, session.logged()[-3000:]
        complaint = next(line for line in session.logged().splitlines() if _SAID[disk][0] in line)
        assert str(full) in complaint or str(full.relative_to(folder)) in complaint, complaint
        assert "free space" in complaint
        particles, _ = assert_exactly_once(session, ledger_folder=outputs["ledger"])
        return DiskReport(disk, _SAID[disk], lasted, before, particles)


def _config(session, who, output):
    path = session.folder / f"{who}.toml"
    text = session.config.read_text()
    path.write_text(re.sub(r'output_dir = "[^"]*"', f'output_dir = "{output}"', text))
    return path
