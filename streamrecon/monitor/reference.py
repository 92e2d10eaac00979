"""``python -m streamrecon.monitor.reference docs/metrics.md``: write the reference of all metrics anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from streamrecon.io import atomic_path
from streamrecon.monitor.catalogue import GROUPS, Family, families

_WHERE = {
    "supervisor": "Of `streamrecon run` itself.",
    "ingest": "Of the half that watches the folder; also on `streamrecon ingest --metrics-bind`.",
    "worker": "Of the half that reconstructs; also on `streamrecon worker --metrics-bind`.",
    "control": "Of the socket that `streamrecon ctl` speaks to; on the worker's page.",
}
_INTRODUCTION = """\
# Metrics

Made by `python -m streamrecon.monitor.reference docs/metrics.md` from the code that serves them; do not edit.

`streamrecon run` serves all of them on `monitor.bind` (`http://127.0.0.1:8750/metrics`). Names are
`streamrecon_<process>_<what>_<unit>`, counters end in `_total`; base units, angstrom excepted; ratios from 0 to 1.
Labels never grow, and every labelled series is there from the start. A gauge is NaN while its value is not known.
Counters begin at 0 when their process starts. What to do with them: [monitoring.md](monitoring.md); what to do when
they look bad: [runbook.md](runbook.md).
"""


def reference() -> str:
    """Return the reference as Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    for process in GROUPS:
        yield f"## {process}\n"
        yield _WHERE[process] + "\n"
        yield "| metric | type | labels | meaning |"
        yield "| --- | --- | --- | --- |"
        for family in families(process):
            yield f"| `{family.name}` | {family.type} | {_labels(family)} | {_cell(family.help)} |"
        yield ""


def _labels(family: Family) -> str:
    return "; ".join(f"`{label}`: {', '.join(values)}" for label, values in family.labels.items())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> None:
    """Write the file that is named, or to standard output."""
    if not arguments:
        sys.stdout.write(reference())
        return
    with atomic_path(Path(arguments[0])) as temporary:
        temporary.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
