"""What the ranks are told, as plain values and arrays: batches, kept particles, states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrecon.inference.compact import CompactImages
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleBatch, ParticleTable
from streamrecon.reconstruct.kept import Contribution, KeptParticles
from streamrecon.reconstruct.results import EngineState

Words = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def batch_to_wire(batch: ParticleBatch) -> tuple[Words, Arrays]:
    """Return a batch in parts."""
    table = batch.table
    words: Words = {
        "identities": list(batch.identities),
        "optics_groups": [asdict(group) for group in table.optics_groups],
        "stack_names": list(table.stack_names),
        "micrograph_names": None if table.micrograph_names is None else list(table.micrograph_names),
    }
    return words, {"images": batch.images, **flat(table)}


def batch_from_wire(words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ParticleBatch:
    """Return the batch; its arrays are those given."""
    names = words["micrograph_names"]
    columns: Words = {name: array for name, array in arrays.items() if name != "images"}
    table = ParticleTable(
        optics_groups=tuple(OpticsGroup(**group) for group in words["optics_groups"]),
        stack_names=tuple(words["stack_names"]),
        micrograph_names=None if names is None else tuple(names),
        **columns,
    )
    return ParticleBatch(arrays["images"], table, tuple(words["identities"]))


def kept_from_wire(arrays: Mapping[str, NDArray[Any]]) -> KeptParticles:
    """Return kept particles that went through `flat`."""

    def part(prefix: str) -> Words:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    own: Words = {name: array for name, array in arrays.items() if "." not in name}
    return KeptParticles(
        images=CompactImages(**part("images.")), contribution=Contribution(**part("contribution.")), **own
    )


def state_from_wire(words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> EngineState:
    """Return a state of copies: an engine keeps what it is given."""
    return EngineState({name: np.array(array) for name, array in arrays.items()}, words["scalars"])


def flat(record: Any, prefix: str = "") -> Arrays:
    """Return the arrays of a dataclass, and of those in it, by dotted name."""
    found: Arrays = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            found[prefix + field.name] = value
        elif is_dataclass(value):
            found |= flat(value, f"{prefix}{field.name}.")
    return found
