"""What the worker stores in a checkpoint beside the engine's state, and what that must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from streamrecon.config.model import Config
from streamrecon.errors import CheckpointCorrupt
from streamrecon.optics.group import OpticsGroup
from streamrecon.worker.preprocess import Contrast


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One checkpoint's worth of the worker.

    Attributes
    ----------
    compatibility : dict
        See `compatibility_of`.
    feed_session : str
        The ledger that the batch numbers belong to.
    folded : list of (first, last)
        Batches in the state.
    folded_link : str
        The link of the last of them in the ledger's chain, by which another ledger is told; "" if it is not known.
    pose_spool_bytes, pose_visits_bytes : int
        Length of the pose table that belongs to the state, and that of what visits found.
    contrast : str
    box_size, pixel_size_angstrom : int, float
    optics_groups : list of OpticsGroup
        Of all batches, in the order in which the pose table counts them.
    """

    compatibility: dict[str, Any]
    feed_session: str
    folded: list[tuple[int, int]]
    folded_link: str = ""
    pose_spool_bytes: int
    pose_visits_bytes: int = 0
    contrast: Contrast
    box_size: int
    pixel_size_angstrom: float
    optics_groups: list[OpticsGroup]

    def to_json_able(self) -> dict[str, Any]:
        """Return it as what a checkpoint can store."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    @classmethod
    def from_checkpoint(cls, extra: Mapping[str, Any]) -> WorkerRecord:
        """Return the record of a checkpoint.

        Raises
        ------
        CheckpointCorrupt
            It is not one of ours.
        """
        try:
            return msgspec.convert(dict(extra), cls)
        except msgspec.ValidationError as error:
            raise CheckpointCorrupt(
                f"expected a worker's record in the checkpoint, found something else: {error}; "
                "was it written by another program?"
            ) from error


def compatibility_of(config: Config) -> dict[str, Any]:
    """Return the settings that shape the state: resuming under others would mix two reconstructions."""
    engine = asdict(config.engine)
    # how many threads work on it changes the time, not what is computed
    engine.pop("threads", None)
    return {
        "session": {"seed": config.session.seed},
        "input": config.input.model_dump(mode="json"),
        "engine": engine,
    }
