"""The daemon as a user starts it: a program of its own, in a folder of its own."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from streamrecon.compare.session import free_ports, write_session_config
from streamrecon.io import read_star

# so much is a busy machine; more is one that stood still
_LONGEST_TURN_SECONDS = 5.0
ENVIRONMENT = os.environ | {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


def streamrecon(*arguments, timeout=240):
    """Run a verb to its end."""
    return subprocess.run(
        [sys.executable, "-m", "streamrecon", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=ENVIRONMENT,
    )


@contextmanager
def started(*arguments, log):
    """Run a verb beside the test; it is dead when we leave, and its children with it."""
    with Path(log).open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamrecon", *map(str, arguments)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )
        process.log = log
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


class Session:
    """A session's folder: configuration, input and what comes out."""

    def __init__(self, folder, *, seed=1, more=""):
        self.folder = Path(folder)
        self.incoming = self.folder / "incoming"
        self.output = self.folder / "session"
        self.log = self.folder / "daemon.log"
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.ports = free_ports()
        # most sets here are small: to search on in them after the stream has ended is another test's
        sweeps = None if "[refinement]" in more else 0
        self.config = write_session_config(self.folder, self.ports, seed=seed, settle_seconds=0.3, final_sweeps=sweeps)
        if more:
            self.config.write_text(self.config.read_text() + more)

    def run(self, *options):
        """Return the daemon, started; a context manager."""
        return started("run", "-c", self.config, *options, log=self.log)

    def finish(self, seconds=240):
        """Run until everything is folded; return what was logged."""
        with self.run("--until-idle", "2") as daemon:
            code = ended(daemon, seconds)
        assert code == 0, self.logged()[-4000:]
        return self.logged()

    def simulate(self, *options):
        """Put simulated particles into the input folder."""
        done = streamrecon("simulate", self.incoming, "--truth", self.folder / "truth", *options)
        assert done.returncode == 0, done.stderr

    def logged(self):
        """Return everything the daemon said."""
        return self.log.read_text()

    def poses(self):
        """Return the exported particles."""
        return read_star(self.output / "particles.star")

    def metrics(self):
        """Return the supervisor's page, None while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.ports.monitor}/metrics", timeout=5) as answer:
                return answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None


def samples(page):
    """Return the samples of a metrics page by (name, labels ...); of none, none."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page or "")
        for sample in family.samples
    }


def figure(session, name, *labels):
    """Return one sample of the supervisor's page, None while it is not there: then ask again."""
    return samples(session.metrics()).get((name, *labels))


def page_follows(session):
    """Return whether the page, which gives way to all others, has started and hears the worker: it subscribes."""
    return (figure(session, "streamrecon_worker_subscribers") or 0) >= 1


def child(parent, word):
    """Return the child process that has a word on its command line, None if there is none just now."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one of those
        for process in psutil.Process(parent.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if word in process.cmdline():
                    return process
    return None


def wait_for(condition, daemon, seconds=120):
    """Wait for something while a process is alive; return what it was."""
    patience = Patience(seconds)
    while not (found := condition()):
        said = Path(daemon.log).read_text()[-3000:]
        assert daemon.poll() is None, f"it ended with {daemon.returncode}: {said}"
        assert patience.lasts(), said
        time.sleep(0.05)
    return found


def ended(daemon, seconds=240):
    """Wait for a process to end; return its exit code."""
    patience = Patience(seconds)
    while daemon.poll() is None:
        assert patience.lasts(), f"it goes on: {Path(daemon.log).read_text()[-3000:]}"
        time.sleep(0.05)
    return daemon.returncode


class Patience:
    """A deadline by what this process had of the clock: a virtual machine may stand still for minutes, all of it."""

    def __init__(self, seconds):
        self._left = seconds
        self._looked = time.monotonic()

    def lasts(self):
        """Return False once the time is over; to be asked several times a second."""
        now = time.monotonic()
        self._left -= min(now - self._looked, _LONGEST_TURN_SECONDS)
        self._looked = now
        return self._left > 0


def assert_each_once(session, manifest):
    """Hold what came out against the manifest that was fed: every particle once, in the map and in the export.

    The export alone would not tell: it lists a particle once however often it was folded.
    """
    fed = Counter(particle_names(read_star(manifest)))
    exported = Counter(particle_names(session.poses()))
    assert exported == fed
    assert max(exported.values()) == 1
    status = json.loads((session.output / "snapshots" / "status.json").read_text())
    assert status["particles_seen"] == len(fed)


def particle_names(table):
    """Return (file name of the stack, section) of every particle."""
    return [
        (Path(table.stack_names[s]).name, i)
        for s, i in zip(table.stack_number.tolist(), table.stack_index.tolist(), strict=True)
    ]
