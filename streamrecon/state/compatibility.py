"""Whether a checkpoint fits the configuration of today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamrecon.errors import CheckpointIncompatible

_ABSENT = "(not set)"


def check_compatible(saved: Mapping[str, object], current: Mapping[str, object]) -> None:
    """Compare what a checkpoint was made under with what is asked for now, key by key.

    Parameters
    ----------
    saved, current : mapping
        Nested mappings of values that JSON can hold.

    Raises
    ------
    CheckpointIncompatible
        Some keys differ; each is named with both values.
    """
    before, now = dict(_flat(saved)), dict(_flat(current))
    differing = [k for k in sorted(before.keys() | now.keys()) if before.get(k, _ABSENT) != now.get(k, _ABSENT)]
    if differing:
        lines = [
            f"  {key}: the checkpoint has {before.get(key, _ABSENT)!r}, the configuration {now.get(key, _ABSENT)!r}"
            for key in differing
        ]
        raise CheckpointIncompatible(
            "the checkpoint was written under another configuration:\n"
            + "\n".join(lines)
            + "\nset these back to resume, or choose a new session.output_dir to start anew"
        )


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            # JSON knows no tuples: what comes back from a file is a list
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
