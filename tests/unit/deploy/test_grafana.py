"""The dashboards: what the code makes, and about metrics that are served."""

import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.grafana import generate
from streamrecon.monitor import catalogue
from tests.unit.deploy.promql import metrics_of

FOLDER = Path(__file__).parents[3] / "deploy" / "grafana"
NAMES = ("streamrecon-session.json", "streamrecon-engine.json")


def load(name):
    return json.loads((FOLDER / "dashboards" / name).read_text(encoding="utf-8"))


def panels(name):
    return [panel for panel in load(name)["panels"] if panel["type"] != "row"]


def expressions(panel):
    """Return a panel's queries as a Prometheus would get them."""
    filled = [target["expr"].replace("$__rate_interval", "1m") for target in panel["targets"]]
    assert not any(re.search(r"\$(?!instance\b)", expression) for expression in filled)
    return filled


def test_the_committed_files_are_what_the_code_makes():
    made = generate.dashboards()
    assert set(made) == set(NAMES) == {path.name for path in (FOLDER / "dashboards").glob("*")}
    for name, text in made.items():
        committed = (FOLDER / "dashboards" / name).read_text(encoding="utf-8")
        assert committed == text, "run: python -m deploy.grafana.generate"


def test_the_command_writes_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    generate.main()
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_query_is_of_metrics_that_are_served_and_of_the_chosen_session(name):
    served = catalogue.series_names()
    count = 0
    for panel in panels(name):
        for expression in expressions(panel):
            metrics = metrics_of(expression)
            assert metrics, expression
            assert metrics <= served, expression
            assert expression.count('instance="$instance"') == expression.count("streamrecon_"), expression
            count += 1
    assert count >= 15


@pytest.mark.parametrize("name", NAMES)
def test_panels_explain_themselves_and_do_not_overlap(name):
    board = load(name)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in panels(name):
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_provisioning_finds_what_is_there():
    source = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "streamrecon.yaml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["type"] == "prometheus"
    prometheus = yaml.safe_load((FOLDER.parent / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    boards = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "streamrecon.yaml").read_text(encoding="utf-8"))
    assert boards["providers"][0]["type"] == "file"
