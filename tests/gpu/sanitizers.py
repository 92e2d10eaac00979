"""Runs a comparison under AddressSanitizer or ThreadSanitizer, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNTIME = {"address": "libasan.so", "thread": "libtsan.so"}


def run_sanitized(kind: str, library: Path, *parts: str, to_the_end: bool = False) -> subprocess.CompletedProcess[str]:
    """Return what the process said; a report of the sanitizer makes it end with an exit code that is not 0.

    ``to_the_end``: go on after a data race, to find more.
    """
    found = subprocess.run(["gcc", f"-print-file-name={RUNTIME[kind]}"], check=True, capture_output=True, text=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "PYTHONMALLOC": "malloc",  # so that small arrays, too, have red zones around them
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has until the end
        "TSAN_OPTIONS": f"exitcode=66 halt_on_error={int(not to_the_end)} history_size=7",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.gpu.sanitized", str(library), *parts]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
