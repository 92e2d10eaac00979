"""The committed JSON Schema: current, and true of messages that real code makes."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from streamrecon.reconstruct.results import BatchResult, EngineStatus, Snapshot
from streamrecon.transport import drafts, schema
from streamrecon.transport.json_schema import FILE_NAME, schema_text

COMMITTED = Path(__file__).parents[3] / "docs" / "schema" / FILE_NAME
STATUS = EngineStatus(
    "searching", 100, 120, 3, 8, 2.0, 5.0, float("nan"), float("inf"), "common", 0.5, 100.0, 96.0, 1.0
)


def messages():
    box, n = 8, 3
    volume = np.linspace(-1, 2, box**3, dtype=np.float32).reshape(box, box, box)
    fsc = np.linspace(1, 0, box // 2 + 1, dtype=np.float32)
    snapshot = Snapshot(volume, volume, volume, fsc, 3.0, float("inf"), 0.143, STATUS)
    ones = np.ones(n, np.float32)
    rotation = np.broadcast_to(np.eye(3, dtype=np.float32), (n, 3, 3))
    result = BatchResult(rotation, np.zeros((n, 2), np.float32), ones, ones, ones, n, 0.01)
    made = [
        *drafts.snapshot_drafts(snapshot, 1.5),
        drafts.poses_draft(4, result, np.array([0, 1, 0], np.int8), STATUS, 1.5),
        drafts.status_draft(STATUS, 1.5),
        drafts.event_draft("kind", "text", {"a": 1, "b": None, "c": "x"}, 1.5),
        drafts.session_draft("start", "name", "0.1", "", 1.5),
        drafts.heartbeat_draft({"fsc/": 1}, 1.5),
    ]
    return {d.topic: schema.serialize(d.build("session", 1)) for d in made}


@pytest.fixture(scope="module")
def committed():
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_committed_file_is_current():
    assert COMMITTED.read_text(encoding="utf-8") == schema_text(), "run `make generated`"


def test_it_is_a_schema_and_speaks_of_every_topic(committed):
    jsonschema.Draft202012Validator.check_schema(committed)
    assert set(committed["x-topics"]) == set(schema.TOPICS)


def test_real_messages_of_every_topic_fit(committed):
    made = {t: frames for t, frames in messages().items() if t in committed["x-topics"]}
    assert set(committed["x-array-topics"]) <= set(made)
    whole = jsonschema.Draft202012Validator(committed)
    for topic, frames in made.items():
        header = json.loads(frames[1])
        whole.validate(header)
        jsonschema.Draft202012Validator({"$ref": committed["x-topics"][topic], "$defs": committed["$defs"]}).validate(
            header
        )
        assert (len(frames) == 3) == (topic in committed["x-array-topics"])


@pytest.mark.parametrize(
    ("topic", "change"),
    [
        ("volume/full/", {"dtype": "<f8"}),
        ("volume/full/", {"shape": [8, 8]}),
        ("volume/preview/", {"shape": [65, 65, 65]}),
        ("status/", {"protocol_version": 2}),
        ("status/", {"sequence": -1}),
        ("poses/", {"columns": "rotation"}),
        ("session/", {"state": "paused"}),
    ],
)
def test_what_the_code_refuses_the_schema_refuses_too(committed, topic, change):
    header = json.loads(messages()[topic][1])
    validator = jsonschema.Draft202012Validator(committed)
    assert validator.is_valid(header)
    assert not validator.is_valid({**header, **change})
    for key in header:
        assert not validator.is_valid({k: v for k, v in header.items() if k != key}), key


def test_a_later_release_may_add_fields(committed):
    header = json.loads(messages()["status/"][1])
    assert jsonschema.Draft202012Validator(committed).is_valid({**header, "new_field": 1})
    raw = json.dumps({**header, "new_field": 1}).encode()
    assert schema.deserialize([b"status/", raw]).header.step == 3


def test_a_request_fits(committed):
    own = {"$ref": "#/$defs/SnapshotRequest", "$defs": committed["$defs"]}
    validator = jsonschema.Draft202012Validator(own)
    assert validator.is_valid(json.loads(schema.encode_snapshot_request(["fsc/"])[1]))
    assert validator.is_valid({"protocol_version": 1})
    assert not validator.is_valid({})
