"""Preview and poses as they go out, against the arrays they were made of."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from streamrecon.errors import TransportError
from streamrecon.reconstruct.results import BatchResult, EngineStatus, Snapshot
from streamrecon.transport import drafts, schema

STATUS = EngineStatus("settled", 250, 250, 3, 8, 1.0, 5.0, 0.5, 9.0, "common", 0.5, 100.0, 96.0, 1.0)


def wave(box, cycles, voxel=2.0):
    """A density that any sampling of the same extent can hold: waves of a few cycles a box side."""
    z, y, x = (np.arange(box) - box / 2) / box * 2 * np.pi * np.ones((3, 1))
    return (
        np.cos(cycles * z)[:, None, None] + 2 * np.sin(cycles * y)[None, :, None] + 3 * np.cos(2 * x)[None, None, :] + 1
    ).astype(np.float32)


def preview_of(volume, voxel=2.0):
    fsc = np.ones(3, np.float32)
    snapshot = Snapshot(volume, volume, volume, fsc, voxel, 9.0, 0.143, STATUS)
    draft = next(d for d in drafts.snapshot_drafts(snapshot, 0.0) if d.topic == schema.VOLUME_PREVIEW)
    return schema.deserialize([bytes(f) for f in schema.serialize(draft.build("s", 1))])


@pytest.mark.parametrize("box", [32, 64, 96, 130])
def test_the_preview_is_the_same_density_in_fewer_voxels(box):
    side = min(box, 64)
    message = preview_of(wave(box, 5))
    assert message.header.shape == (side,) * 3
    assert message.header.voxel_size_angstrom * side == pytest.approx(2.0 * box)
    assert message.quantised.dtype == np.int8
    np.testing.assert_allclose(message.volume, wave(side, 5), atol=message.header.scale * 0.51)


def test_detail_finer_than_the_preview_is_left_out_not_folded_back():
    fine = np.broadcast_to(np.cos(2 * np.pi * 40 * np.arange(128) / 128).astype(np.float32), (128, 128, 128))
    message = preview_of(wave(128, 5) + fine)
    np.testing.assert_allclose(message.volume, wave(64, 5), atol=message.header.scale * 0.51)


def test_a_flat_map_and_an_offset_survive():
    assert (preview_of(np.full((32, 32, 32), 3.5, np.float32)).volume == 3.5).all()


def test_a_map_with_nan_has_no_preview():
    volume = wave(32, 3)
    volume[0, 0, 0] = np.nan
    with pytest.raises(TransportError, match="finite"):
        preview_of(volume)


def test_poses_arrive_in_their_documented_columns():
    n = 5
    rotation = Rotation.random(n, rng=np.random.default_rng(1)).as_matrix().astype(np.float32)
    rng = np.random.default_rng(2)
    shift, weight, ess, evidence = (rng.normal(size=s).astype(np.float32) for s in ((n, 2), n, n, n))
    half = np.array([0, 1, 1, 0, 1], np.int8)
    inlier = rng.uniform(size=n).astype(np.float32)
    result = BatchResult(rotation, shift, weight, ess, evidence, n, 0.1, inlier)
    frames = schema.serialize(drafts.poses_draft(12, result, half, STATUS, 0.0).build("s", 1))
    message = schema.deserialize([bytes(f) for f in frames])
    assert (message.header.batch, message.header.first_particle, message.header.shape) == (12, 245, (5, 16))
    np.testing.assert_array_equal(message.rotation, rotation)
    np.testing.assert_array_equal(message.shift_angstrom, shift)
    columns = {
        "rotation_xz": rotation[:, 0, 2],
        "rotation_zy": rotation[:, 2, 1],
        "shift_y_angstrom": shift[:, 1],
        "pose_weight": weight,
        "effective_sample_size": ess,
        "log_evidence": evidence,
        "inlier": inlier,
        "half": half,
    }
    for name, expected in columns.items():
        np.testing.assert_array_equal(message.column(name), expected)


def test_as_many_names_as_columns():
    header = schema.PosesHeader(
        session_id="s",
        sequence=1,
        timestamp=0.0,
        stage="settled",
        particles_seen=1,
        image_visits=1,
        resolution_angstrom=None,
        fsc_kind="common",
        shape=(1, 2),
        columns=("one",),
        batch=1,
        first_particle=0,
        checksum=schema.checksum_of(bytes(8)),
    )
    frames = schema.serialize(schema.PosesMessage(schema.POSES, header, np.zeros((1, 2), np.float32)))
    with pytest.raises(TransportError, match="2 columns, but 1 names"):
        schema.deserialize([bytes(f) for f in frames])
