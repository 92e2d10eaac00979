"""A watched program's processor time, memory and maps, against what the program counts itself."""

import contextlib
import json
import sys

import psutil

from benchmarks.watched import Found, watch

# burns processor time in itself and in a child, which stays, takes memory, then says what it took
BUSY = """
import json, os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import sys, time
while time.process_time() < 0.3: pass
print(time.process_time(), flush=True)
time.sleep(600)
'''], stdout=subprocess.PIPE, text=True)
held = bytearray(200 * 2**20)
held[::4096] = b"x" * len(held[::4096])
while time.process_time() < 0.3: pass
took = time.process_time() + float(child.stdout.readline())
with open("part", "w") as file:
    json.dump({"took": took, "child": child.pid}, file)
os.replace("part", "map")
time.sleep(600)
"""


class OneMap:
    def __init__(self, path):
        self.path, self.found = path, False

    def new(self):
        if self.found or not self.path.exists():
            return []
        self.found = True
        return [Found((self.path,), "the map", 7)]


def test_time_and_memory_of_a_program_and_its_child(tmp_path):
    run = watch(
        [sys.executable, "-c", BUSY], tmp_path, tmp_path / "log", OneMap(tmp_path / "map").new, 100.0,
        done=lambda watched, quiet: bool(watched.found),
    )  # fmt: skip
    said = json.loads((tmp_path / "map").read_text())
    assert run.finished
    assert not run.failure
    (found,) = run.found
    assert (found.label, found.visits) == ("the map", 7)
    # both processes then sleep: nothing to speak of is added
    ticks = 0.05  # the kernel counts in hundredths of a second, for each process and kind
    assert said["took"] - ticks <= found.core_seconds < said["took"] + 0.5
    assert run.core_seconds == found.core_seconds
    assert run.peak_bytes > 200 * 2**20
    with contextlib.suppress(psutil.NoSuchProcess):
        # a zombie waits for a parent that is gone: it has ended
        assert psutil.Process(said["child"]).status() == psutil.STATUS_ZOMBIE


def test_a_program_that_takes_too_long_is_ended(tmp_path):
    run = watch([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, tmp_path / "log", list, 0.3)
    assert not run.finished
    assert not run.failure
    assert not run.found


def test_a_program_that_fails_is_quoted(tmp_path):
    run = watch([sys.executable, "-c", "raise SystemExit('no such particle')"], tmp_path, tmp_path / "log", list, 60.0)
    assert not run.finished
    assert "ended with 1" in run.failure
    assert "no such particle" in run.failure
