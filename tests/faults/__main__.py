"""``python -m tests.faults``: the fault campaign. Every part is seeded; the report is what a run found.

python -m tests.faults                                    # everything, some three hours with the soak of two
python -m tests.faults --soak-minutes 10 --write docs/faults.md
python -m tests.faults kills peers --kills 20
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.common import machine
from tests.faults import sections

_REPORT = "report"
PARTS = ("kills", "visits", "disk", "damage", "peers", "strangers", "subscribers", "soak", "memory")


def main():
    """Run the parts that were asked for, print what each found, and write the report."""
    options = _options()
    options.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for part in () if options.parts == [_REPORT] else options.parts or PARTS:
        folder = Path(tempfile.mkdtemp(prefix=f"faults-{part}-"))
        began = time.monotonic()
        print(f"== {part}", flush=True)
        try:
            text = getattr(sections, part)(folder, options)
        except Exception:  # the next part is tried all the same
            failed.append(part)
            traceback.print_exc()
            print(f"what it left is in {folder}", flush=True)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        text += f"\n{_about(options.seed)}, {(time.monotonic() - began) / 60:.1f} minutes.\n"
        (options.results / f"{part}.md").write_text(text, encoding="utf-8")
        print(text, flush=True)
    if options.fuzz is not None and options.fuzz.exists():
        text = sections.fuzz(json.loads(options.fuzz.read_text()))
        (options.results / "fuzz.md").write_text(text, encoding="utf-8")
    if options.write is not None:
        _write(options)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _about(seed):
    return f"Seed {seed}, revision {machine()['revision']}, {time.strftime('%Y-%m-%d', time.gmtime())}"


def _options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[[], *PARTS, _REPORT],
        metavar="PART",
        help=f"of {', '.join(PARTS)}; or report, which only writes",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kill-minutes", type=float, metavar="MINUTES", help="kill no more after so long")
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--peer-seconds", type=float, default=120.0)
    parser.add_argument("--soak-minutes", type=float, default=120.0)
    parser.add_argument("--fuzz", type=Path, metavar="FILE", help="figures of python -m tests.faults.fuzz --json FILE")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("build/faults"),
        metavar="FOLDER",
        help="where each part leaves its section",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report there, as Markdown")
    return parser.parse_args()


def _write(options):
    """Put the sections together, of this run and, for parts not run now, of the last one that had them."""
    about = machine()
    head = (
        "# Faults\n\n"
        "What was done to the daemon, and what it did. `make faults` and `make fuzz` write this page; each\n"
        "part says at which revision it was run last. Short versions of all but two\n"
        "(visits, memory) are tests (`tests/faults/`).\n\n"
        f"{about['processor']}, {about['cores']} cores, Python {about['python']}. Where a part does not say that the\n"
        "machine was its own, other programs ran beside: times by the clock say little then, counts and ratios do.\n"
    )
    files = [options.results / f"{part}.md" for part in (*PARTS, "fuzz")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.exists()]
    options.write.write_text("\n".join([head, *texts]).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
