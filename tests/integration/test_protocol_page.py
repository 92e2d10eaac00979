"""The client that docs/protocol.md prints: it knows only ZeroMQ and JSON, and is run as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamrecon.transport import schema
from streamrecon.transport.publisher import Publisher
from tests.integration.publishing import FREE_PORT, make_snapshot

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def client_of_page(publisher):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "streamrecon" not in code
    for default, bound in (("tcp://127.0.0.1:8762", publisher.volumes), ("tcp://127.0.0.1:8763", publisher.snapshots)):
        assert default in code
        code = code.replace(default, bound)
    return code


def test_it_joins_late_follows_and_ends_with_the_session():
    with Publisher(FREE_PORT, FREE_PORT, FREE_PORT, heartbeat_seconds=0.1) as publisher:
        publisher.publish_snapshot(make_snapshot(2.0, box=12))
        code = client_of_page(publisher)
        command = [sys.executable, "-u", "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline().split() == ["100", "20.0", "(12,", "12,", "12)"]
                publisher.publish_snapshot(make_snapshot(3.0, box=10))
                assert process.stdout.readline().split() == ["100", "20.0", "(10,", "10,", "10)"]
                publisher.close("done")
                # not communicate: readline may have read ahead
                out, complaints = process.stdout.read(), process.stderr.read()
                process.wait(timeout=120)
            finally:
                process.kill()
    assert (process.returncode, out, complaints) == (0, "", "")


def test_it_has_some_twenty_lines():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 28


@pytest.mark.parametrize("topic", schema.TOPICS)
def test_the_page_names_every_topic(topic):
    assert f"`{topic}`" in PAGE


@pytest.mark.parametrize("header", sorted({kind.header.__name__ for kind in schema.KINDS.values()}))
def test_the_page_names_every_field_of_every_header(header):
    (fields,) = {k.header.__struct_fields__ for k in schema.KINDS.values() if k.header.__name__ == header}
    assert [f for f in fields if f"`{f}`" not in PAGE] == []


@pytest.mark.parametrize("column", [c for c in schema.POSE_COLUMNS if not c.startswith("rotation_")])
def test_the_page_names_every_column_of_the_poses(column):
    assert f"`{column}`" in PAGE
