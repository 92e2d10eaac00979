"""The list of metrics: complete, what Prometheus accepts, and documented as it is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamrecon.monitor import catalogue
from streamrecon.monitor.reference import main, reference

ROOT = Path(__file__).parents[3]


def test_the_reference_is_current():
    path = ROOT / "docs" / "metrics.md"
    assert path.read_text(encoding="utf-8") == reference(), (
        "run: python -m streamrecon.monitor.reference docs/metrics.md"
    )


def test_the_command_writes_the_reference(tmp_path):
    main([str(tmp_path / "metrics.md")])
    assert (tmp_path / "metrics.md").read_text(encoding="utf-8") == reference()


def test_metrics_are_made_in_one_package_only():
    """What is made elsewhere would be in no list, no reference and no test."""
    maker = re.compile(r"\b(Counter|Gauge|Histogram|Summary|Info|Enum)\(")
    for path in (ROOT / "streamrecon").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.parent.name != "monitor" and "prometheus_client" in text:
            assert not maker.search(text), path


def test_the_list_is_what_the_page_has():
    page = text_string_to_metric_families(catalogue.example_page().decode())
    served = {sample.name for family in page for sample in family.samples}
    assert served == catalogue.series_names()


def test_labels_are_listed_with_their_values():
    found = {family.name: family for process in catalogue.GROUPS for family in catalogue.families(process)}
    assert found["streamrecon_supervisor_process_up"].labels == {"process": ("ingest", "worker")}
    assert found["streamrecon_worker_step_seconds"].labels == {}
    assert found["streamrecon_worker_step_seconds"].type == "histogram"
    assert found["streamrecon_ingest_quarantined_total"].series == ("streamrecon_ingest_quarantined_total",)
    assert f"`{'streamrecon_supervisor_process_up'}` | gauge | `process`: ingest, worker |" in reference()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus")
def test_prometheus_has_nothing_to_say_against_the_page():
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=catalogue.example_page(), capture_output=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout + checked.stderr == b""
