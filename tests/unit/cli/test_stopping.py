"""Being told to stop: by signals, and by the death of the process that started us."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = """
import sys, time
from pathlib import Path
from streamrecon.cli.stopping import stop_on_signals
stop = stop_on_signals()
said = Path(sys.argv[1])
said.write_text("waits")
stop.wait(60)
said.write_text("was told")
deadline = time.monotonic() + float(sys.argv[2])  # what a worker does to end in order
while time.monotonic() < deadline and not said.with_name("go").exists():
    time.sleep(0.02)
said.write_text("ended in order")
"""
PARENT = """
import os, subprocess, sys, threading, time
for _ in range(20):  # the kernel tells the children once for each thread that they are handed on to
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
launch = [sys.executable, "-m", "streamrecon.monitor.launch", str(os.getpid())]
subprocess.Popen([*launch, sys.executable, "-c", *sys.argv[1:]], start_new_session=True)
time.sleep(60)
"""


def wait_for(path, text):
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < deadline, f"expected {text!r}"
        time.sleep(0.02)


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_a_child_ends_in_order_when_its_parent_with_many_threads_is_killed(tmp_path, ignored):
    said = tmp_path / "said"
    # what nohup(1) does
    nohup = (lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) if ignored else None
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(said), "0.3"], preexec_fn=nohup) as parent:
        wait_for(said, "waits")
        parent.kill()
    wait_for(said, "ended in order")


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([signal.SIGHUP], 0),
        ([signal.SIGHUP, signal.SIGHUP], 0),
        ([signal.SIGTERM], 0),
        ([signal.SIGTERM, signal.SIGTERM], -signal.SIGTERM),
    ],
    ids=["hang-up", "two hang-ups", "term", "two terms"],
)
def test_hang_ups_stop_in_order_however_many_and_a_second_term_kills(tmp_path, numbers, code):
    said = tmp_path / "said"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(said), "60"]) as child:
        wait_for(said, "waits")
        for number in numbers:
            child.send_signal(number)
            wait_for(said, "was told")
        said.with_name("go").touch()
        assert child.wait(60) == code


# a handler comes between any two steps of the thread that waits: also while that holds the lock of what it waits for
AT_A_BAD_MOMENT = """
import os, signal, sys, threading
from prometheus_client import CollectorRegistry
from streamrecon.cli.stopping import stop_on_signals
from streamrecon.monitor.supervisor import Supervisor
if sys.argv[1] == "supervisor":
    supervisor = Supervisor(None, None, registry=CollectorRegistry())
    signal.signal(signal.SIGHUP, supervisor.request_stop)
    stop = supervisor._woken
else:
    stop = stop_on_signals()
with stop._cond:
    os.kill(os.getpid(), signal.SIGHUP)
    print("told")
assert stop.wait(60)
"""


@pytest.mark.parametrize("who", ["a process", "supervisor"])
def test_a_signal_may_come_at_any_moment(who):
    done = subprocess.run([sys.executable, "-c", AT_A_BAD_MOMENT, who], timeout=90, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"told\n"), done.stderr


def test_who_was_started_to_outlive_the_terminal_does(tmp_path):
    said = tmp_path / "said"
    nohup = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731  # as above
    with subprocess.Popen([sys.executable, "-c", CHILD, str(said), "0"], preexec_fn=nohup) as child:
        wait_for(said, "waits")
        ignores = int(Path(f"/proc/{child.pid}/status").read_text().split("SigIgn:")[1].split()[0], 16)
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(60) == 0
    assert ignores >> (signal.SIGHUP - 1) & 1
