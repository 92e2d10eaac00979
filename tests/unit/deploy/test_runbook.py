"""What operators read names only what there is."""

import re
from pathlib import Path

import pytest

from streamrecon.cli import exit_codes
from streamrecon.config.live import LIVE_KEYS
from streamrecon.ingest.metrics import QUARANTINE_KINDS
from streamrecon.monitor import catalogue
from streamrecon.transport.control_schema import VERBS

ROOT = Path(__file__).parents[3]
RUNBOOK = ROOT / "docs" / "runbook.md"


@pytest.mark.parametrize("path", [RUNBOOK, ROOT / "SECURITY.md", ROOT / "docs" / "monitoring.md"], ids=lambda p: p.name)
def test_every_metric_named_is_served(path):
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"streamrecon_(?:ingest|worker|supervisor|control)_[a-z_]+", text))
    assert len(named) >= 2
    assert named <= catalogue.series_names()


def test_every_exit_code_and_every_kind_of_quarantine_is_explained():
    text = RUNBOOK.read_text(encoding="utf-8")
    codes = set(re.findall(r"^(\d+) ", exit_codes.__doc__, re.MULTILINE))
    table = text[text.index("## Exit codes") :]
    assert codes <= set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE))
    stopping = {int(code) for code in re.findall(r"^\| (\d+) \|.*\| stop\b", table, re.MULTILINE)}
    assert stopping == exit_codes.PERMANENT
    assert all(f"`{kind}`" in text for kind in QUARANTINE_KINDS)


def test_every_control_verb_and_live_key_is_explained():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## Control") :].split("\n\n", 3)[2]
    rows = {verb for row in table.splitlines()[2:] for verb in re.findall(r"`([a-z]+)[^`]*`", row.split("|")[1])}
    assert rows == set(VERBS)
    setting = next(row for row in table.splitlines() if row.startswith("| `set"))
    assert set(re.findall(r"`([a-z]+\.[a-z_]+)`", setting)) == set(LIVE_KEYS)
