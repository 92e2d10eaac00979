"""Messages made of what the engine hands out; they wait for their sequence number until they are sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.assess.report import Assessment
from streamrecon.errors import TransportError
from streamrecon.fourier.crop import fourier_crop
from streamrecon.reconstruct.results import BatchResult, EngineStatus, Snapshot
from streamrecon.transport import schema


@dataclass(frozen=True)
class Draft:
    """A message without its number: ``build(session_id, sequence)`` makes it."""

    topic: str
    build: Callable[[str, int], schema.Message]


class _Progress(TypedDict):
    stage: str
    particles_seen: int
    image_visits: int
    resolution_angstrom: float | None
    fsc_kind: str


def _progress(status: EngineStatus, resolution_angstrom: float) -> _Progress:
    return {
        "stage": status.stage,
        "particles_seen": status.particles_seen,
        "image_visits": status.image_visits,
        "resolution_angstrom": schema.finite_or_none(resolution_angstrom),
        "fsc_kind": status.fsc_kind,
    }


def status_draft(status: EngineStatus, timestamp: float) -> Draft:
    """Return the ``status/`` message of an engine's status."""

    def build(session_id: str, sequence: int) -> schema.Message:
        header = schema.StatusHeader(
            session_id=session_id,
            sequence=sequence,
            timestamp=timestamp,
            step=status.step,
            k_max=status.k_max,
            temperature=schema.finite_or_none(status.temperature),
            effective_sample_size=schema.finite_or_none(status.effective_sample_size),
            coarse_entropy=schema.finite_or_none(status.coarse_entropy),
            step_seconds=schema.finite_or_none(status.step_seconds),
            images_per_second=schema.finite_or_none(status.images_per_second),
            evaluations_per_image=schema.finite_or_none(status.evaluations_per_image),
            log_evidence=schema.finite_or_none(status.log_evidence),
            inlier_share=schema.finite_or_none(status.inlier_share),
            stage_reason=status.stage_reason,
            symmetry=status.symmetry,
            symmetry_reason=status.symmetry_reason,
            symmetry_gain=schema.finite_or_none(status.symmetry_gain),
            symmetry_contradicted=status.symmetry_contradicted,
            symmetry_taken_back=status.symmetry_taken_back,
            starts=status.starts,
            start_agreement=schema.finite_or_none(status.start_agreement),
            challenges=status.challenges,
            challenge_reason=status.challenge_reason,
            method=status.method,
            step_size=schema.finite_or_none(status.step_size),
            **_progress(status, status.resolution_angstrom),
        )
        return schema.StatusMessage(schema.STATUS, header)

    return Draft(schema.STATUS, build)


def snapshot_drafts(snapshot: Snapshot, timestamp: float) -> list[Draft]:
    """Return the messages of a snapshot: FSC and preview first, to be there when the maps arrive."""

    def build_fsc(session_id: str, sequence: int) -> schema.Message:
        fsc = np.ascontiguousarray(snapshot.fsc, np.float32)
        header = schema.FscHeader(
            session_id=session_id,
            sequence=sequence,
            timestamp=timestamp,
            shape=(len(fsc),),
            box_size=snapshot.volume.shape[-1],
            voxel_size_angstrom=snapshot.voxel_size_angstrom,
            fsc_threshold=snapshot.fsc_threshold,
            checksum=schema.checksum_of(schema.raw_frame(fsc)),
            **_progress(snapshot.status, snapshot.resolution_angstrom),
        )
        return schema.FscMessage(schema.FSC, header, fsc)

    maps = {
        schema.VOLUME_FULL: snapshot.volume,
        schema.VOLUME_HALF_A: snapshot.half_a,
        schema.VOLUME_HALF_B: snapshot.half_b,
    }
    return [
        Draft(schema.FSC, build_fsc),
        _preview_draft(snapshot, timestamp),
        *(_volume_draft(topic, volume, snapshot, timestamp) for topic, volume in maps.items()),
    ]


def _volume_draft(topic: str, volume: NDArray[np.float32], snapshot: Snapshot, timestamp: float) -> Draft:
    def build(session_id: str, sequence: int) -> schema.Message:
        array = np.ascontiguousarray(volume, np.float32)
        nz, ny, nx = array.shape
        header = schema.VolumeHeader(
            session_id=session_id,
            sequence=sequence,
            timestamp=timestamp,
            shape=(nz, ny, nx),
            voxel_size_angstrom=snapshot.voxel_size_angstrom,
            checksum=schema.checksum_of(schema.raw_frame(array)),
            **_progress(snapshot.status, snapshot.resolution_angstrom),
        )
        return schema.VolumeMessage(topic, header, array)

    return Draft(topic, build)


def _preview_draft(snapshot: Snapshot, timestamp: float) -> Draft:
    def build(session_id: str, sequence: int) -> schema.Message:
        box = snapshot.volume.shape[-1]
        side = min(box, schema.PREVIEW_SIDE)
        small = fourier_crop(snapshot.volume, side)
        quantised, scale, offset = quantise(small)
        header = schema.PreviewHeader(
            session_id=session_id,
            sequence=sequence,
            timestamp=timestamp,
            shape=(side, side, side),
            scale=scale,
            offset=offset,
            voxel_size_angstrom=snapshot.voxel_size_angstrom * box / side,
            checksum=schema.checksum_of(schema.raw_frame(quantised)),
            **_progress(snapshot.status, snapshot.resolution_angstrom),
        )
        return schema.PreviewMessage(schema.VOLUME_PREVIEW, header, quantised)

    return Draft(schema.VOLUME_PREVIEW, build)


def quantise(volume: NDArray[np.float32]) -> tuple[NDArray[np.int8], float, float]:
    """Return int8 values, scale and offset such that offset + scale * values is the volume to within scale / 2.

    Raises
    ------
    TransportError
        The volume holds something else than finite numbers.
    """
    low, high = float(volume.min()), float(volume.max())
    if not np.isfinite([low, high]).all():
        raise TransportError(f"expected a map of finite numbers, found values from {low} to {high}; no preview is sent")
    scale = (high - low) / 254 or 1.0  # from -127 to 127; a flat map needs no scale
    offset = (high + low) / 2
    return np.rint((volume - offset) / scale).astype(np.int8), scale, offset


def poses_draft(
    batch_id: int, result: BatchResult, half: NDArray[np.integer], status: EngineStatus, timestamp: float
) -> Draft:
    """Return the ``poses/`` message of a folded batch; ``half`` is 0 or 1 for each particle."""

    def build(session_id: str, sequence: int) -> schema.Message:
        columns = (
            result.rotation.reshape(-1, 9),
            result.shift_angstrom,
            result.pose_weight,
            result.effective_sample_size,
            result.log_evidence,
            np.full(len(half), np.nan) if result.inlier is None else result.inlier,
            half,
        )
        table = np.column_stack(columns).astype(np.float32)
        header = schema.PosesHeader(
            session_id=session_id,
            sequence=sequence,
            timestamp=timestamp,
            shape=(table.shape[0], table.shape[1]),
            columns=schema.POSE_COLUMNS,
            batch=batch_id,
            first_particle=status.particles_seen - len(table),
            checksum=schema.checksum_of(schema.raw_frame(table)),
            **_progress(status, status.resolution_angstrom),
        )
        return schema.PosesMessage(schema.POSES, header, table)

    return Draft(schema.POSES, build)


def recorded_draft(message: schema.Message) -> Draft:
    """Return a message of an earlier session as it was, but for session and number."""

    def build(session_id: str, sequence: int) -> schema.Message:
        header = msgspec.structs.replace(message.header, session_id=session_id, sequence=sequence)
        return dataclasses.replace(message, header=header)  # type: ignore[arg-type]  # of the same type as it was

    return Draft(message.topic, build)


def assessment_draft(assessment: Assessment, status: EngineStatus, timestamp: float) -> Draft:
    """Return the ``assessment/`` message; ``status`` is of the snapshot that was assessed."""

    def build(session_id: str, sequence: int) -> schema.Message:
        header = schema.AssessmentHeader(
            session_id=session_id,
            sequence=sequence,
            timestamp=timestamp,
            **vars(assessment),
            **_progress(status, status.resolution_angstrom),
        )
        return schema.AssessmentMessage(schema.ASSESSMENT, header)

    return Draft(schema.ASSESSMENT, build)


def event_draft(kind: str, text: str, fields: Mapping[str, schema.Scalar], timestamp: float) -> Draft:
    """Return an ``event/`` message."""
    held = dict(fields)

    def build(session_id: str, sequence: int) -> schema.Message:
        header = schema.EventHeader(
            session_id=session_id, sequence=sequence, timestamp=timestamp, kind=kind, text=text, fields=held
        )
        return schema.EventMessage(schema.EVENT, header)

    return Draft(schema.EVENT, build)


def session_draft(
    state: Literal["start", "end"], name: str, software_version: str, reason: str, timestamp: float
) -> Draft:
    """Return a ``session/`` message."""

    def build(session_id: str, sequence: int) -> schema.Message:
        header = schema.SessionHeader(
            session_id=session_id,
            sequence=sequence,
            timestamp=timestamp,
            state=state,
            name=name,
            software_version=software_version,
            reason=reason,
        )
        return schema.SessionMessage(schema.SESSION, header)

    return Draft(schema.SESSION, build)


def heartbeat_draft(last_sequence: Mapping[str, int], timestamp: float) -> Draft:
    """Return a ``heartbeat/`` message."""
    held = dict(last_sequence)

    def build(session_id: str, sequence: int) -> schema.Message:
        header = schema.HeartbeatHeader(
            session_id=session_id, sequence=sequence, timestamp=timestamp, last_sequence=held
        )
        return schema.HeartbeatMessage(schema.HEARTBEAT, header)

    return Draft(schema.HEARTBEAT, build)
