"""The messages of the publish wire: a topic, its header and, for some, an array. The table at the end says all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamrecon.transport import headers
from streamrecon.transport.headers import (
    AssessmentHeader,
    EventHeader,
    FscHeader,
    Header,
    HeartbeatHeader,
    PosesHeader,
    PreviewHeader,
    SessionHeader,
    StatusHeader,
    VolumeHeader,
)


@dataclass(frozen=True)
class VolumeMessage:
    """A map; ``volume`` is (z, y, x) float32, protein positive, and read-only."""

    topic: str
    header: VolumeHeader
    volume: NDArray[np.float32]


@dataclass(frozen=True)
class PreviewMessage:
    """The full map in brief; ``quantised`` is (z, y, x) int8, read-only, and `volume` what it stands for."""

    topic: str
    header: PreviewHeader
    quantised: NDArray[np.int8]

    @property
    def volume(self) -> NDArray[np.float32]:
        """Return the densities, (z, y, x) float32, right to within ``header.scale`` / 2."""
        return np.float32(self.header.offset) + np.float32(self.header.scale) * self.quantised.astype(np.float32)


@dataclass(frozen=True)
class FscMessage:
    """The half-set FSC, (n_shells,) float32, read-only."""

    topic: str
    header: FscHeader
    fsc: NDArray[np.float32]


@dataclass(frozen=True)
class PosesMessage:
    """Poses of one batch; ``table`` is (n, columns) float32, read-only."""

    topic: str
    header: PosesHeader
    table: NDArray[np.float32]

    @property
    def rotation(self) -> NDArray[np.float32]:
        """Return the rotations, (n, 3, 3) float32, from the image frame into the volume frame."""
        return self.table[:, :9].reshape(-1, 3, 3)

    @property
    def shift_angstrom(self) -> NDArray[np.float32]:
        """Return where the particles' centres lie from the box centres, (n, 2) float32, (x, y), angstrom."""
        return self.table[:, 9:11]

    def column(self, name: str) -> NDArray[np.float32]:
        """Return a column, (n,) float32, by its name in ``header.columns``."""
        return self.table[:, self.header.columns.index(name)]


@dataclass(frozen=True)
class StatusMessage:
    """The engine's status."""

    topic: str
    header: StatusHeader


@dataclass(frozen=True)
class AssessmentMessage:
    """What an operator decides on."""

    topic: str
    header: AssessmentHeader


@dataclass(frozen=True)
class EventMessage:
    """Something worth telling a person."""

    topic: str
    header: EventHeader


@dataclass(frozen=True)
class HeartbeatMessage:
    """The publisher lives."""

    topic: str
    header: HeartbeatHeader


@dataclass(frozen=True)
class SessionMessage:
    """The session starts or ends."""

    topic: str
    header: SessionHeader


Message: TypeAlias = (
    VolumeMessage
    | PreviewMessage
    | FscMessage
    | PosesMessage
    | StatusMessage
    | AssessmentMessage
    | EventMessage
    | HeartbeatMessage
    | SessionMessage
)


class Kind(NamedTuple):
    """What a topic carries: its header, its message, and the message's array if it has one."""

    header: type[Header]
    message: Any
    array: str | None = None


KINDS: dict[str, Kind] = {
    **dict.fromkeys(headers.VOLUME_TOPICS, Kind(VolumeHeader, VolumeMessage, "volume")),
    headers.VOLUME_PREVIEW: Kind(PreviewHeader, PreviewMessage, "quantised"),
    headers.FSC: Kind(FscHeader, FscMessage, "fsc"),
    headers.POSES: Kind(PosesHeader, PosesMessage, "table"),
    headers.STATUS: Kind(StatusHeader, StatusMessage),
    headers.ASSESSMENT: Kind(AssessmentHeader, AssessmentMessage),
    headers.EVENT: Kind(EventHeader, EventMessage),
    headers.HEARTBEAT: Kind(HeartbeatHeader, HeartbeatMessage),
    headers.SESSION: Kind(SessionHeader, SessionMessage),
}
