"""A real Prometheus with the committed configuration and rules, if need be in a world where time goes faster."""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from streamrecon.monitor.ports import unused_ports

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is missing: apt-get install prometheus"
)


def faster(text, factor):
    """Return a duration, or an expression with durations after ``[`` or ``offset``, with all of them shortened."""

    def shorten(found):
        milliseconds = float(found["number"]) * SECONDS[found["unit"]] * 1000 / factor
        return f"{found['before']}{max(1, round(milliseconds))}ms"

    return re.sub(r"(?P<before>^|\[|offset )(?P<number>\d+)(?P<unit>ms|[smhd])(?=$|\]|\s|\))", shorten, text)


def write_configuration(folder, targets, *, scrape_seconds, factor=1.0):
    """Write the committed configuration and rules for these targets; return the path of the configuration."""
    rules = yaml.safe_load((FOLDER / "streamrecon.rules.yaml").read_text(encoding="utf-8"))
    if factor != 1:
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule["expr"] = faster(rule["expr"], factor)
                if "for" in rule:
                    rule["for"] = faster(rule["for"], factor)
    (folder / "streamrecon.rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))
    interval = f"{round(1000 * scrape_seconds)}ms"
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    config["scrape_configs"][0]["scrape_timeout"] = interval
    del config["alerting"]
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    write_targets(folder, targets)
    return path


def write_targets(folder, targets):
    """Set whom Prometheus asks: name of the instance -> (host:port, path)."""
    entries = [
        {"targets": [address], "labels": {"instance": name, "__metrics_path__": path}}
        for name, (address, path) in targets.items()
    ]
    new = folder / "targets.new"
    new.write_text(yaml.safe_dump(entries), encoding="utf-8")
    new.replace(folder / "targets.yaml")  # never half a file


class Prometheus:
    """What a running Prometheus answers."""

    def __init__(self, port, process, log):
        self._base = f"http://127.0.0.1:{port}"
        self._process = process
        self._log = log

    def _get(self, path, **parameters):
        with urllib.request.urlopen(f"{self._base}{path}?{urllib.parse.urlencode(parameters)}", timeout=60) as answer:
            return answer.read()

    def query(self, expression):
        """Return [(labels, value)] of an instant query."""
        found = json.loads(self._get("/api/v1/query", query=expression))["data"]["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def firing(self):
        """Return {(alert, instance)} of what fires now."""
        alerts = json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def ready(self):
        """Return True once it answers."""
        try:
            self._get("/-/ready")
        except OSError:
            return False
        return True

    def wait_for(self, condition, seconds=120):
        """Wait until a condition holds; return what it was."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, f"{sorted(self.firing())}\n{self._log.read_text()[-2000:]}"
            time.sleep(0.1)
        return found


@contextmanager
def running(folder, config):
    """Run Prometheus on a free port; it is dead when we leave."""
    (port,) = unused_ports(1)
    log = folder / "prometheus.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            prometheus = Prometheus(port, process, log)
            prometheus.wait_for(prometheus.ready)
            yield prometheus
        finally:
            process.kill()
            process.wait()
