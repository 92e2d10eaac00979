"""What the worker stores in a checkpoint beside the engine's state, and what that must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from streamrecon.config.model import Config
from streamrecon.errors import CheckpointCorrupt
from streamrecon.io import PoseSpool, SpoolLength
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
    pose_spool_crc32, pose_visits_crc32 : int or None
        CRC-32 of so much of both; None in checkpoints of earlier releases.
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
    pose_spool_crc32: int | None = None
    pose_visits_crc32: int | None = None
    contrast: Contrast
    box_size: int
    pixel_size_angstrom: float
    optics_groups: list[OpticsGroup]

    @property
    def pose_tables(self) -> SpoolLength:
        """Return the length of the pose tables, and what their bytes sum up to."""
        return SpoolLength(self.pose_spool_bytes, self.pose_visits_bytes, self.pose_spool_crc32, self.pose_visits_crc32)

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


def check_pose_tables(spool_path: Path, extra: Mapping[str, Any]) -> None:
    """Hold the pose tables against what a checkpoint recorded of them.

    Raises
    ------
    CheckpointCorrupt
        They are shorter or were altered: another checkpoint may have recorded what is still whole of them.
    """
    try:
        record = WorkerRecord.from_checkpoint(extra)
    except CheckpointCorrupt:
        return  # none of ours, but whole: who resumes from it says so, and it stays where it is
    with PoseSpool(spool_path) as spool:
        spool.check(record.pose_tables)


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
