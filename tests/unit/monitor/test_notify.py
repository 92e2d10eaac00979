"""What systemd hears: a fake NOTIFY_SOCKET, the supervisor, and stand-ins for ingest and worker."""

import itertools
import os
import signal
import socket
import sys
import threading
import time

import pytest
from prometheus_client import CollectorRegistry

from streamrecon.monitor import notify
from streamrecon.monitor.notify import Heart, Notifier, Vitals
from streamrecon.monitor.supervisor import RestartPolicy, StopPolicy, Supervisor

CHILD = """
import http.server, os, pathlib, signal, sys, time
folder, name, port = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if (folder / f"{name}-sick").exists() else 200); self.end_headers()
        self.wfile.write(b"streamrecon_worker_particles_seen 1234.0\\nstreamrecon_worker_resolution_angstrom 8.25\\n")
    def log_message(self, *a): pass
signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
(folder / f"{name}-pid").write_text(str(os.getpid()))
while not (folder / f"{name}-may-answer").exists(): time.sleep(0.02)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.heard = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while (data := self.socket.recv(65536)) != b"end":
            self.heard += [(time.monotonic(), line) for line in data.decode().split("\n")]

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", self.socket.getsockname())
        self._thread.join()
        self.socket.close()

    def count(self, line, since=0.0):
        return sum(text == line and at >= since for at, text in self.heard)

    def pings_with(self, status):
        """Count the pings that were sent together with a status."""
        lines = [text for _, text in self.heard]
        return sum(pair == (f"STATUS={status}", "WATCHDOG=1") for pair in itertools.pairwise(lines))

    def statuses(self):
        return [text.removeprefix("STATUS=") for _, text in self.heard if text.startswith("STATUS=")]


@pytest.fixture
def systemd(tmp_path):
    made = Systemd(str(tmp_path / "notify"))
    yield made
    made.close()


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture
def session(systemd, tmp_path):
    """A supervisor in a thread, with a watchdog of 0.4 s."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)

    def command(name):
        return lambda port: [sys.executable, str(script), str(tmp_path), name, str(port)]

    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    supervisor = Supervisor(
        command("ingest"),
        command("worker"),
        registry=CollectorRegistry(),
        restart=RestartPolicy(first_seconds=3600.0, maximum_seconds=3600.0),
        stop=StopPolicy(ingest_seconds=10, grace_seconds=20),
        notifier=Notifier(environment),
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    yield supervisor
    supervisor.request_stop()
    thread.join(90)
    assert not thread.is_alive()


def let_answer(folder, name):
    (folder / f"{name}-may-answer").touch()


def pid_of(folder, name):
    return int((folder / f"{name}-pid").read_text())


def test_from_ready_to_stopping(session, systemd, tmp_path):
    let_answer(tmp_path, "ingest")
    wait_for(lambda: "ingest up, worker starting" in systemd.statuses())
    time.sleep(0.5)
    assert systemd.count("READY=1") == 0, "ready came before the worker answered"
    let_answer(tmp_path, "worker")
    wait_for(lambda: systemd.count("READY=1"))
    wait_for(lambda: systemd.statuses()[-1] == "ingest up, worker up; 1234 particles, 8.2 A")
    pings = systemd.count("WATCHDOG=1")
    wait_for(lambda: systemd.count("WATCHDOG=1") - pings >= 4)
    assert systemd.count("STOPPING=1") == 0
    session.request_stop()
    wait_for(lambda: systemd.count("STOPPING=1"))
    assert systemd.count("READY=1") == systemd.count("STOPPING=1") == 1


@pytest.mark.parametrize("how", ["frozen", "says so"])
def test_no_ping_while_a_child_hangs_and_again_when_it_goes_on(session, systemd, tmp_path, monkeypatch, how):
    monkeypatch.setattr("streamrecon.monitor.server._FETCH_SECONDS", 0.3)
    for name in ("ingest", "worker"):
        let_answer(tmp_path, name)
    wait_for(lambda: systemd.count("READY=1"))
    wait_for(lambda: session.health() == (True, {"processes": {"ingest": "up", "worker": "up"}}))
    if how == "frozen":
        os.kill(pid_of(tmp_path, "worker"), signal.SIGSTOP)
    else:
        (tmp_path / "worker-sick").touch()
    told = len(systemd.statuses())
    try:
        # the first status may have been looked at before, the second was not
        wait_for(lambda: any(s.startswith("ingest up, worker hanging") for s in systemd.statuses()[told + 1 :]))
        since = time.monotonic()
        time.sleep(1.2)
        assert systemd.count("WATCHDOG=1", since) == 0
        # /healthz of the daemon says it, too: a container has no systemd
        well, about = session.health()
        assert not well
        assert about["processes"]["worker"] == "hanging"
    finally:
        os.kill(pid_of(tmp_path, "worker"), signal.SIGCONT)
        (tmp_path / "worker-sick").unlink(missing_ok=True)
    wait_for(lambda: systemd.count("WATCHDOG=1", since))
    wait_for(lambda: session.health()[0])


def test_the_health_of_one_that_starts_and_of_a_loop_that_hangs(session, tmp_path, monkeypatch):
    let_answer(tmp_path, "ingest")
    both = {"ingest": "up", "worker": "starting"}
    wait_for(lambda: session.health() == (True, {"processes": both}))
    let_answer(tmp_path, "worker")
    wait_for(lambda: session.health() == (True, {"processes": {"ingest": "up", "worker": "up"}}))
    # no round of the supervisor's own is that young
    monkeypatch.setattr(notify, "_HANGING_SECONDS", 0.0)
    assert not session.health()[0]


def test_a_child_that_is_started_again_is_no_reason_for_alarm(session, systemd, tmp_path):
    for name in ("ingest", "worker"):
        let_answer(tmp_path, name)
    wait_for(lambda: systemd.count("READY=1"))
    os.kill(pid_of(tmp_path, "worker"), signal.SIGKILL)
    wait_for(lambda: systemd.pings_with("ingest up, worker down") >= 2)
    wait_for(lambda: session._worker.restart_at is not None)
    session._worker.restart_at = 0.0  # the wait is over
    wait_for(lambda: systemd.statuses()[-1].startswith("ingest up, worker up"))
    assert systemd.count("READY=1") == 1


def test_a_supervisor_whose_own_loop_hangs_is_not_vouched_for(systemd, tmp_path, monkeypatch):
    monkeypatch.setattr(notify, "_HANGING_SECONDS", 0.3)
    hung_at = []
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"})

    def look():
        return Vitals({"ingest": "up", "worker": "up"}, hung_at[0] if hung_at else time.monotonic())

    with Heart(notifier, look):
        wait_for(lambda: systemd.count("WATCHDOG=1") >= 2)
        hung_at.append(time.monotonic())
        wait_for(lambda: systemd.heard[-1][1].startswith("STATUS="))  # and no ping with it
        pings = systemd.count("WATCHDOG=1")
        statuses = len(systemd.statuses())
        wait_for(lambda: len(systemd.statuses()) >= statuses + 4)
    assert systemd.count("WATCHDOG=1") == pings


def test_an_abstract_socket(tmp_path):
    name = f"streamrecon-test-{os.getpid()}"
    systemd = Systemd(f"\0{name}")
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).send("READY=1", "STATUS=fine")
    wait_for(lambda: len(systemd.heard) == 2)
    systemd.close()


def test_without_systemd_nothing_is_sent_and_nothing_fails(tmp_path):
    assert not Notifier({}).active
    Notifier({}).send("READY=1")
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000000"})
    gone.send("READY=1")
    assert gone.watchdog_seconds == 1.0
    assert Notifier({"WATCHDOG_USEC": "1000000"}).watchdog_seconds is None
    other = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert Notifier(other).watchdog_seconds is None
