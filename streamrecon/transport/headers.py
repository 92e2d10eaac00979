"""What the publish wire says, as types: topics, limits and the JSON header of each kind of message.

A new kind of message needs a topic and a header here, a message in `messages`, and a draft in `drafts`; the
JSON Schema in docs/schema/ follows from these types (``make generated``).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from streamrecon.assess.forecast import Forecast
from streamrecon.assess.report import FitSummary, OpticsGroupSummary, SymmetrySummary

PROTOCOL_VERSION = 1

VOLUME_FULL = "volume/full/"
VOLUME_HALF_A = "volume/half_a/"
VOLUME_HALF_B = "volume/half_b/"
VOLUME_PREVIEW = "volume/preview/"
FSC = "fsc/"
POSES = "poses/"
STATUS = "status/"
ASSESSMENT = "assessment/"
EVENT = "event/"
HEARTBEAT = "heartbeat/"
SESSION = "session/"
# the maps themselves; the preview is made from one of them
VOLUME_TOPICS = (VOLUME_FULL, VOLUME_HALF_A, VOLUME_HALF_B)
TOPICS = (*VOLUME_TOPICS, VOLUME_PREVIEW, FSC, POSES, STATUS, ASSESSMENT, EVENT, HEARTBEAT, SESSION)
ON_VOLUMES_SOCKET = (*VOLUME_TOPICS, VOLUME_PREVIEW)
ON_BOTH_SOCKETS = (HEARTBEAT, SESSION)

MAX_HEADER_BYTES = 64 * 1024
MAX_ARRAY_BYTES = 4 * 1024**3
MAX_SIDE = 4096
MAX_POSES = 100_000
PREVIEW_SIDE = 64

# the one request the snapshot ROUTER answers: ["snapshot", JSON SnapshotRequest]
SNAPSHOT_REQUEST = b"snapshot"

# rotation[i, j] is column 3 i + j: it takes vectors of the image frame into the volume frame
POSE_COLUMNS = (
    *(f"rotation_{i}{j}" for i in "xyz" for j in "xyz"),
    "shift_x_angstrom",
    "shift_y_angstrom",
    "pose_weight",
    "effective_sample_size",
    "log_evidence",
    "inlier",
    "half",
)

Count = Annotated[int, msgspec.Meta(ge=0)]
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
PreviewSide = Annotated[int, msgspec.Meta(ge=1, le=PREVIEW_SIDE)]
Angstrom = Annotated[float, msgspec.Meta(gt=0)]
Checksum: TypeAlias = str
Scalar: TypeAlias = str | int | float | bool | None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every header carries.

    Attributes
    ----------
    session_id : str
        Of one run of the publisher; another one means that the worker started anew and numbering with it.
    sequence : int
        Of this topic, from 1, without holes.
    timestamp : float, seconds
        Unix time at which the content was true.
    """

    protocol_version: int = PROTOCOL_VERSION
    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    sequence: Count
    timestamp: float


class Progress(Envelope, frozen=True, kw_only=True):
    """How far the reconstruction was when the content was made."""

    stage: str
    particles_seen: Count
    image_visits: Count
    resolution_angstrom: float | None
    fsc_kind: str


class VolumeHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="volume"):
    """Of a map: ``shape`` is (z, y, x), ``checksum`` the BLAKE2b-128 of the raw frame in hexadecimal."""

    shape: tuple[Side, Side, Side]
    dtype: Literal["<f4"] = "<f4"
    voxel_size_angstrom: Angstrom
    checksum: Checksum


class PreviewHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="preview"):
    """Of the full map in brief, for thin lines: at most 64 voxels a side, value = offset + scale * int8."""

    shape: tuple[PreviewSide, PreviewSide, PreviewSide]
    dtype: Literal["|i1"] = "|i1"
    scale: Annotated[float, msgspec.Meta(gt=0)]
    offset: float
    voxel_size_angstrom: Angstrom
    checksum: Checksum


class FscHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="fsc"):
    """Of a half-set FSC curve: entry i is shell i, at i / (box_size * voxel_size_angstrom) per angstrom."""

    shape: tuple[Side]
    dtype: Literal["<f4"] = "<f4"
    box_size: Side
    voxel_size_angstrom: Angstrom
    fsc_threshold: float
    checksum: Checksum


class PosesHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="poses"):
    """Of the poses of one batch: a row a particle, its columns named in ``columns``.

    Row i belongs to the particle number ``first_particle`` + i, from 0, in the order of folding, which is the
    order of ``poses.rows``. ``batch`` is the ledger's number.
    """

    shape: tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_POSES)], Annotated[int, msgspec.Meta(ge=1, le=100)]]
    dtype: Literal["<f4"] = "<f4"
    columns: tuple[str, ...]
    batch: Count
    first_particle: Count
    checksum: Checksum


class StatusHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="status"):
    """The engine's status in numbers; ``stage_reason`` tells people what brought it to this stage.

    The fields are those of `streamrecon.reconstruct.results.EngineStatus`.
    ``method`` is ``engine.method`` of the configuration, ``step_size`` that of its optimiser, null for the default.
    """

    step: Count
    k_max: Count
    temperature: float | None
    effective_sample_size: float | None
    coarse_entropy: float | None
    step_seconds: float | None
    images_per_second: float | None
    evaluations_per_image: float | None
    log_evidence: float | None
    inlier_share: float | None = None
    stage_reason: str = ""
    symmetry: str = "C1"
    symmetry_reason: str = ""
    symmetry_gain: float | None = None
    symmetry_contradicted: bool = False
    symmetry_taken_back: str = ""
    starts: Count = 1
    start_agreement: float | None = None
    challenges: Count = 0
    challenge_reason: str = ""
    method: str = "online_em"
    step_size: float | None = None


class AssessmentHeader(Progress, frozen=True, kw_only=True, tag_field="type", tag="assessment"):
    """What an operator decides on; the fields are those of `streamrecon.assess.report.Assessment`."""

    box_size: Side
    voxel_size_angstrom: Angstrom
    resolution_unmasked_angstrom: float | None
    resolution_masked_angstrom: float | None
    resolution_half_angstrom: float | None
    fsc_unmasked: list[float]
    fsc_masked: list[float]
    fsc_randomised: list[float]
    fsc_corrected: list[float]
    b_factor_angstrom2: float | None
    sharpening_b_factor: float | None
    resolution_history: list[tuple[Count, float]]
    fit: FitSummary | None
    forecast: list[Forecast]
    angular_n_side: Count
    angular_counts: list[Count]
    angular_efficiency: float | None
    tilt_suggestion_degrees: float | None
    conical_fsc_area_ratio: float | None
    noise_variance: list[list[float]]
    optics_groups: list[OpticsGroupSummary]
    defocus_edges_angstrom: list[float]
    defocus_counts: list[Count]
    symmetry: SymmetrySummary | None


class EventHeader(Envelope, frozen=True, kw_only=True, tag_field="type", tag="event"):
    """Something worth telling a person: ``kind`` for programs, ``text`` for people."""

    kind: Annotated[str, msgspec.Meta(max_length=100)]
    text: str
    fields: dict[str, Scalar] = {}


class HeartbeatHeader(Envelope, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """Last sequence number of every topic: who is behind it has lost something."""

    last_sequence: dict[str, Count]


class SessionHeader(Envelope, frozen=True, kw_only=True, tag_field="type", tag="session"):
    """The session starts or ends here; ``reason`` is empty at the start."""

    state: Literal["start", "end"]
    name: str
    software_version: str
    reason: str = ""


class SnapshotRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for the last message of every topic that begins with one of ``topics`` (none given: all)."""

    protocol_version: int = PROTOCOL_VERSION
    topics: tuple[str, ...] = ()


ArrayHeader: TypeAlias = VolumeHeader | PreviewHeader | FscHeader | PosesHeader
Header: TypeAlias = ArrayHeader | StatusHeader | AssessmentHeader | EventHeader | HeartbeatHeader | SessionHeader
