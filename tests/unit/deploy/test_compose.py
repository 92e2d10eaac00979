"""compose.yaml: valid, and everything it names is there. It is not run here: that needs a container engine."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from streamrecon.config import load_config

DEPLOY = Path(__file__).parents[3] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SECRETS = {"STREAMRECON_INCOMING": "/data", "GRAFANA_ADMIN_PASSWORD": "x"}


def services():
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]


def mounts(service):
    """Return {target in the container: source on the host or name of a volume} of a service."""
    # a source may hold a variable with a message, and the message no colon of a path
    found = [re.fullmatch(r"(\$\{[^}]+\}|[^:]+):([^:]+)(:ro)?", entry) for entry in services()[service]["volumes"]]
    return {match[2]: match[1] for match in found}


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is missing: apt-get install it")
def test_it_is_a_valid_compose_file():
    checked = subprocess.run(
        ["docker-compose", "-f", COMPOSE, "--profile", "practice", "config", "--quiet"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | SECRETS,
        cwd=DEPLOY,
    )
    assert checked.returncode == 0, checked.stderr


def test_every_file_that_is_mounted_is_there_and_every_volume_is_declared():
    declared = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["volumes"]
    for service in services():
        for source in mounts(service).values():
            if source.startswith("./"):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("${"):
                assert source in declared, source


def test_images_are_pinned_and_ports_are_published_on_the_loopback():
    for name, service in services().items():
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), port


def test_the_daemon_listens_where_others_look(monkeypatch):
    config = load_config(DEPLOY / "container" / "config.toml")
    ports = {config.monitor.bind.rsplit(":", 1)[1]}
    ports |= {e.rsplit(":", 1)[1] for e in (config.publish.events, config.publish.volumes, config.publish.snapshots)}
    assert {port.rsplit(":", 1)[1] for port in services()["streamrecon"]["ports"]} == ports
    (target,) = yaml.safe_load((DEPLOY / "container" / "targets.yaml").read_text(encoding="utf-8"))[0]["targets"]
    assert target == f"streamrecon:{config.monitor.bind.rsplit(':', 1)[1]}"
    assert str(config.watch.root) in mounts("streamrecon")
    assert any(config.session.output_dir.is_relative_to(place) for place in mounts("streamrecon"))


def test_prometheus_and_grafana_find_their_files():
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))[
        "scrape_configs"
    ]
    folder = "/etc/prometheus/"
    wanted = ["prometheus.yaml", "streamrecon.rules.yaml", *scraped["file_sd_configs"][0]["files"]]
    assert {folder + name for name in wanted} <= set(mounts("prometheus"))
    boards = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "dashboards" / "streamrecon.yaml").read_text(encoding="utf-8")
    )
    path = boards["providers"][0]["options"]["path"]
    assert mounts("grafana")[path] == "./grafana/dashboards"
    source = (DEPLOY / "grafana" / "provisioning" / "datasources" / "streamrecon.yaml").read_text(encoding="utf-8")
    assert re.search(r"url: \$\{(\w+)\}", source)[1] in services()["grafana"]["environment"]


def test_the_image_is_made_of_what_is_there():
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    assert services()["streamrecon"]["build"] == {"context": "..", "dockerfile": "deploy/container/Containerfile"}
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert all((DEPLOY.parent / source).exists() for sources in copied for source in sources)
    assert "USER streamrecon" in text
