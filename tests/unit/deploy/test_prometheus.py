"""The rules: valid, about metrics that are served, tested both ways, and each with a place in the runbook."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from streamrecon.monitor import catalogue
from tests.unit.deploy.promql import metrics_of

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "streamrecon.rules.yaml"
CASES = FOLDER / "streamrecon.tests.yaml"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yaml"
BESIDES = {"up"}  # made by Prometheus itself

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: apt-get install prometheus"
)
needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool is missing: apt-get install prometheus-alertmanager"
)


def rules(kind):
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def alert_names():
    return [rule["alert"] for rule in rules("alert")]


def run(*command, cwd=FOLDER):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, cwd=cwd)


@needs_promtool
def test_prometheus_takes_configuration_and_rules():
    checked = run("promtool", "check", "config", "prometheus.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules('alert')) + len(rules('record'))} rules found" in checked.stdout


@needs_promtool
def test_every_case_comes_out_as_written():
    tested = run("promtool", "test", "rules", CASES.name)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs_promtool
@pytest.mark.parametrize("change", ["never", "always"])
def test_the_cases_notice_an_alert_that_never_or_always_fires(tmp_path, change):
    text = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in text["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["expr"] = "vector(0) > 1" if change == "never" else "vector(1)"
                rule.pop("for", None)
    (tmp_path / RULES.name).write_text(yaml.safe_dump(text), encoding="utf-8")
    shutil.copy(CASES, tmp_path)
    tested = run("promtool", "test", "rules", CASES.name, cwd=tmp_path)
    assert tested.returncode != 0
    noticed = set(re.findall(r"alertname=\\\"(\w+)", tested.stdout + tested.stderr))
    assert noticed == set(alert_names())


def test_every_alert_says_what_a_person_needs():
    anchors = {heading.lower() for heading in re.findall(r"^### (\w+)$", runbook(), re.MULTILINE)}
    for rule in rules("alert"):
        assert rule["labels"]["severity"] in ("info", "warning", "critical"), rule["alert"]
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"}, rule["alert"]
        path, anchor = notes["runbook_url"].split("#")
        assert path == "file:///opt/streamrecon/docs/runbook.md"
        assert anchor == rule["alert"].lower()
        assert anchor in anchors, f"docs/runbook.md has no heading {rule['alert']}"


def test_the_runbook_explains_no_alert_that_is_gone():
    section = runbook().split("## Alerts\n", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == alert_names()


def runbook():
    return (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")


def test_the_table_in_the_docs_is_that_of_the_rules():
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(Streamrecon\w+)` \|.*\| ([^|]*) \| (\w+) \|$", text, re.MULTILINE)
    expected = [
        (rule["alert"], rule["for"].replace("m", " min") if "for" in rule else "at once", rule["labels"]["severity"])
        for rule in rules("alert")
    ]
    assert [(name, wait.strip(), severity) for name, wait, severity in table] == expected


def test_rules_are_about_metrics_that_exist():
    recorded = {rule["record"] for rule in rules("record")}
    assert len(recorded) >= 5
    for rule in rules("expr"):
        assert metrics_of(rule["expr"]) <= catalogue.series_names() | recorded | BESIDES, rule


def test_every_recorded_series_is_used_or_of_use():
    """A name says at which level it is and what was done, as Prometheus recommends: level:metric:operations."""
    for rule in rules("record"):
        assert re.fullmatch(r"instance:streamrecon_\w+:\w+", rule["record"])


@needs_amtool
def test_alertmanager_takes_the_example():
    checked = run("amtool", "check-config", ALERTMANAGER)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_amtool
@pytest.mark.parametrize(("severity", "receiver"), [("critical", "on_call"), ("warning", "staff"), ("info", "staff")])
def test_alerts_reach_whom_they_are_for(severity, receiver):
    routed = run("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}")
    assert routed.stdout.strip() == receiver


def test_what_is_inhibited_exists():
    text = ALERTMANAGER.read_text(encoding="utf-8")
    named = set(re.findall(r"\bStreamrecon[A-Z]\w+", text))
    assert named
    assert named <= set(alert_names())
