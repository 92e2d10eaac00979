"""JSON Schema of every header of the publish wire, made from the types that the code itself reads and writes.

``python -m streamrecon.transport.json_schema docs/schema`` writes it; a test holds the committed file to this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from streamrecon.io.atomic import atomic_path
from streamrecon.transport.headers import PROTOCOL_VERSION, SnapshotRequest
from streamrecon.transport.messages import KINDS

FILE_NAME = f"stream-v{PROTOCOL_VERSION}.schema.json"


def stream_schema() -> dict[str, Any]:
    """Return one schema (draft 2020-12): a header is any of those in ``$defs``, and ``x-topics`` says which.

    Everything a header has is required, because it is always sent; other keys are allowed, because a later
    release may add some.
    """
    headers = list(dict.fromkeys(kind.header for kind in KINDS.values()))
    references, components = msgspec.json.schema_components([*headers, SnapshotRequest], ref_template="#/$defs/{name}")
    names = [reference["$ref"].rsplit("/", 1)[1] for reference in references]
    for definition in components.values():
        properties = definition.get("properties", {})
        if "protocol_version" in properties:
            properties["protocol_version"] = {"const": PROTOCOL_VERSION}
            definition["required"] = list(properties)
        if definition.get("description"):
            definition["description"] = " ".join(definition["description"].split())
    components["SnapshotRequest"]["required"] = ["protocol_version"]
    name_of = dict(zip(headers, names, strict=False))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Headers of streamrecon's published stream, protocol version {PROTOCOL_VERSION}",
        "oneOf": [{"$ref": f"#/$defs/{name_of[header]}"} for header in headers],
        "x-topics": {topic: f"#/$defs/{name_of[kind.header]}" for topic, kind in KINDS.items()},
        "x-array-topics": [topic for topic, kind in KINDS.items() if kind.array is not None],
        "$defs": components,
    }


def schema_text() -> str:
    """Return the committed file's text."""
    return json.dumps(stream_schema(), indent=2) + "\n"


if __name__ == "__main__":
    with atomic_path(Path(sys.argv[1]) / FILE_NAME) as temporary:
        temporary.write_text(schema_text(), encoding="utf-8")
