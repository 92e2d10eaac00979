"""``python -m tests.faults.fuzz``: feed every reader and decoder with inputs that are nearly right.

Each target takes a process of its own, until it has had --inputs inputs or --seconds seconds.
"""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from benchmarks.common import machine
from tests.faults.fuzz.run import Found, fuzz_by_name
from tests.faults.fuzz.targets import TARGETS


def main():
    """Fuzz what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all by default: {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="at most, each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    reports, failed = [], []
    for name in options.targets or TARGETS:
        try:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                report = pool.submit(fuzz_by_name, name, options.seed, options.inputs, options.seconds).result()
        except (Found, BrokenProcessPool) as error:
            failed.append(name)
            print(f"{name:20} {error}", flush=True)
            continue
        reports.append(report)
        print(
            f"{name:20} {report.inputs:9} inputs {report.seconds:6.0f} s {report.accepted:8} accepted "
            f"{1000 * report.slowest_seconds:7.1f} ms the slowest {report.memory_growth_bytes / 2**20:5.0f} MiB more "
            f"{dict(report.refused)}",
            flush=True,
        )
    if options.json:
        # not asdict(): it takes a Counter apart
        about = {
            "seed": options.seed,
            "revision": machine()["revision"],
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        _keep(options.json, [vars(r) | {"refused": dict(r.refused)} | about for r in reports])
    if failed:
        raise SystemExit(f"found something in {', '.join(failed)}")


def _keep(path, reports):
    """Put the figures into a file, in place of older ones of the same target."""
    kept = {r["target"]: r for r in json.loads(path.read_text())} if path.exists() else {}
    kept |= {r["target"]: r for r in reports}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(kept.values()), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
