"""The supervisor over real processes: small stand-ins for ingest and worker that do what a test asks."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from streamrecon.monitor import supervisor as supervisor_module
from streamrecon.monitor.server import fetch_metrics
from streamrecon.monitor.supervisor import RestartPolicy, StopPolicy, Supervisor

QUICK = RestartPolicy(first_seconds=0.05, maximum_seconds=0.2, reset_after_seconds=60, give_up_after=3)
PATIENT = StopPolicy(ingest_seconds=60, grace_seconds=90, drained_seconds=60)

CHILD = """
import http.server, os, pathlib, signal, sys, threading, time
name, port, log, ending = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
def say(text):
    with log.open("a") as file:
        file.write(f"{name} {text} {os.getpid()}\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        more = "streamrecon_worker_finishing 1.0\\n" if ending == "sweeping" else ""
        self.wfile.write(f"# TYPE of_{name} gauge\\nof_{name} 1.0\\n{more}".encode())
    def log_message(self, *a): pass
def stop(*a):
    say("told")
    if ending == "stubborn": return
    time.sleep(0.2)
    say("stopped")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, stop)  # the supervisor is dead
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
say("started")
def ingest_is_gone():
    ended = [line for line in log.read_text().splitlines() if line.startswith("ingest ended")]
    try:
        return bool(ended) and os.kill(int(ended[-1].split()[-1]), 0)
    except ProcessLookupError:  # and the supervisor knows
        return True
while ending in ("follow", "sweeping") and not ingest_is_gone():
    time.sleep(0.05)
# whoever ends by itself has the other told to stop, which must have got so far as to hear it
while ending.startswith("exit") and f"{'worker' if name == 'ingest' else 'ingest'} started" not in log.read_text():
    time.sleep(0.05)
if ending.startswith(("exit", "follow", "sweeping")):
    time.sleep(1.5 if ending == "sweeping" else 0.3)
    say("ended")
    os._exit(int(ending[4:]) if ending.startswith("exit") else 0)
while True: time.sleep(0.05)
"""


class Stage:
    def __init__(self, folder):
        self.log = folder / "log"
        self.log.touch()
        self.script = folder / "child.py"
        self.script.write_text(CHILD)

    def command(self, name, ending="never"):
        return lambda port: [sys.executable, str(self.script), name, str(port), str(self.log), ending]

    def said(self):
        return [line.rsplit(" ", 1)[0] for line in self.log.read_text().splitlines()]

    def pid(self, what):
        lines = [line for line in self.log.read_text().splitlines() if line.startswith(what)]
        return int(lines[-1].rsplit(" ", 1)[1])


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def supervise(stage, ingest="never", worker="never", **options):
    options.setdefault("restart", QUICK)
    options.setdefault("stop", PATIENT)
    return Supervisor(
        stage.command("ingest", ingest), stage.command("worker", worker), registry=CollectorRegistry(), **options
    )


class Running:
    """A supervisor in a thread; the kernel ties the children to that thread, which outlives them here."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self.code = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        self.code = self.supervisor.run()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        for _ in range(2):
            if self.thread.is_alive() and error[0] is not None:
                self.supervisor.request_stop()
        self.thread.join(120)
        assert not self.thread.is_alive()


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def values(text):
    return {
        (s.name, s.labels.get("process")): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


def test_a_killed_child_is_started_again_and_counted(stage):
    with Running(supervise(stage)) as running:
        wait_for(lambda: {"ingest started", "worker started"} <= set(stage.said()))
        first = stage.pid("worker started")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: stage.said().count("worker started") == 2)
        assert stage.pid("worker started") != first
        found = values(running.supervisor.metrics_text())
        assert found["streamrecon_supervisor_process_restarts_total", "worker"] == 1
        assert found["streamrecon_supervisor_process_restarts_total", "ingest"] == 0
        running.supervisor.request_stop()
    assert running.code == 0


def test_metrics_of_the_living_are_joined_and_a_dead_one_shows(stage):
    slow = RestartPolicy(first_seconds=3600, maximum_seconds=3600)
    with Running(supervise(stage, restart=slow)) as running:
        wait_for(lambda: {"ingest started", "worker started"} <= set(stage.said()))
        # one that has no time to answer just now is left out
        both = {("of_ingest", None): 1, ("of_worker", None): 1, ("streamrecon_supervisor_process_up", "ingest"): 1}
        wait_for(lambda: both.items() <= values(running.supervisor.metrics_text()).items())
        wait_for(lambda: running.supervisor.health()[0])
        os.kill(stage.pid("ingest started"), signal.SIGKILL)
        wait_for(lambda: not running.supervisor.health()[0])
        up = "streamrecon_supervisor_process_up"
        left = {("of_worker", None): 1, (up, "ingest"): 0, (up, "worker"): 1}
        wait_for(lambda: left.items() <= values(running.supervisor.metrics_text()).items())
        assert ("of_ingest", None) not in values(running.supervisor.metrics_text())
        running.supervisor.request_stop()
    assert running.code == 0


def test_a_stop_ends_ingest_first_and_then_the_worker(stage):
    with Running(supervise(stage)) as running:
        wait_for(lambda: {"ingest started", "worker started"} <= set(stage.said()))
        running.supervisor.request_stop()
    assert stage.said()[2:] == ["ingest told", "ingest stopped", "worker told", "worker stopped"]
    assert running.code == 0


def test_a_second_signal_kills(stage):
    with Running(supervise(stage, "stubborn", "stubborn")) as running:
        wait_for(lambda: {"ingest started", "worker started"} <= set(stage.said()))
        worker = psutil.Process(stage.pid("worker started"))
        running.supervisor.request_stop()
        wait_for(lambda: "ingest told" in stage.said())
        running.supervisor.request_stop()
    # killed: neither would have ended by itself, and the time to wait for them is longer than the test's
    assert running.code == 1
    assert not worker.is_running()


def test_a_terminal_that_hangs_up_more_than_once_kills_nobody(stage):
    """A shell and the kernel may both tell it."""
    with Running(supervise(stage)) as running:
        wait_for(lambda: {"ingest started", "worker started"} <= set(stage.said()))
        running.supervisor.request_stop(signal.SIGHUP)
        wait_for(lambda: "ingest told" in stage.said())
        running.supervisor.request_stop(signal.SIGHUP)
    assert stage.said()[2:] == ["ingest told", "ingest stopped", "worker told", "worker stopped"]
    assert running.code == 0


def test_who_does_not_stop_in_time_is_killed(stage):
    stop = StopPolicy(ingest_seconds=0.2, grace_seconds=0.6)
    with Running(supervise(stage, worker="stubborn", stop=stop)) as running:
        wait_for(lambda: {"ingest started", "worker started"} <= set(stage.said()))
        running.supervisor.request_stop()
    assert running.code == 1


def test_a_drained_ingest_lets_the_worker_finish(stage):
    """Ingest ends with 0; the worker ends by itself later, with 0: nobody is restarted or signalled."""
    with Running(supervise(stage, "exit0", "follow")) as running:
        pass
    assert running.code == 0
    assert sorted(stage.said()) == ["ingest ended", "ingest started", "worker ended", "worker started"]


def test_a_worker_that_missed_the_end_is_told(stage):
    stop = StopPolicy(ingest_seconds=60, grace_seconds=90, drained_seconds=0.3)
    with Running(supervise(stage, "exit0", "never", stop=stop)) as running:
        pass
    assert running.code == 0
    assert stage.said()[-2:] == ["worker told", "worker stopped"]


def test_a_worker_too_busy_to_answer_once_is_not_told(stage, monkeypatch):
    """The first questions at the end go unanswered; one that never answers is told to stop all the same."""
    asked = []

    def busy(port):
        asked.append(port)
        return None if len(asked) <= 2 or never else fetch_metrics(port)

    monkeypatch.setattr(supervisor_module, "fetch_metrics", busy)
    stop = StopPolicy(ingest_seconds=5, grace_seconds=10, drained_seconds=0.3)
    never = False
    with Running(supervise(stage, "exit0", "sweeping", stop=stop)) as running:
        pass
    assert running.code == 0
    assert "worker told" not in stage.said()
    stage.log.write_text("")
    never = True
    with Running(supervise(stage, "exit0", "never", stop=stop)):
        pass
    assert stage.said()[-2:] == ["worker told", "worker stopped"]


def test_a_worker_that_makes_its_last_sweeps_is_left_alone(stage):
    """As the one above, for longer than that; but it says in its metrics what it is doing."""
    stop = StopPolicy(ingest_seconds=5, grace_seconds=10, drained_seconds=0.3)
    with Running(supervise(stage, "exit0", "sweeping", stop=stop)) as running:
        pass
    assert running.code == 0
    assert sorted(stage.said()) == ["ingest ended", "ingest started", "worker ended", "worker started"]


def test_a_configuration_error_is_not_tried_again(stage):
    with Running(supervise(stage, worker="exit2", permanent_exit_codes={2})) as running:
        pass
    assert running.code == 2
    assert stage.said().count("worker started") == 1
    assert "ingest stopped" in stage.said()


def test_it_gives_up_after_so_many_failures_in_a_row(stage):
    with Running(supervise(stage, worker="exit1")) as running:
        pass
    assert running.code == 1
    assert stage.said().count("worker started") == 1 + QUICK.give_up_after
    assert "ingest stopped" in stage.said()


@pytest.mark.parametrize(
    ("code", "permanent", "told"),
    [
        (1, (), ["it is started again in 0.05 s"] + ["it is started again in"] * 2 + ["giving up"]),
        (2, (2,), ["for good with exit code 2"]),
    ],
)
def test_who_asked_is_told_of_every_failure(stage, code, permanent, told):
    supervisor = supervise(stage, worker=f"exit{code}", permanent_exit_codes=permanent)
    said = []
    supervisor.failed = said.append
    with Running(supervisor):
        pass
    assert len(said) == len(told)
    assert all(part in text and text.startswith("worker") for part, text in zip(told, said, strict=True)), said


def test_children_end_with_a_supervisor_that_is_killed(stage, tmp_path):
    script = tmp_path / "supervise.py"
    script.write_text(
        "import sys\n"
        "from prometheus_client import CollectorRegistry\n"
        "from streamrecon.monitor.supervisor import Supervisor\n"
        f"script, log = {str(stage.script)!r}, {str(stage.log)!r}\n"
        "def command(name):\n"
        "    return lambda port: [sys.executable, script, name, str(port), log, 'never']\n"
        "Supervisor(command('ingest'), command('worker'), registry=CollectorRegistry()).run()\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: {"ingest started", "worker started"} <= set(stage.said()))
        process.kill()
    wait_for(lambda: {"ingest stopped", "worker stopped"} <= set(stage.said()))
