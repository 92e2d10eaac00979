"""Publish wire: serialise then deserialise is the identity; whatever else arrives is a TransportError."""

import contextlib
import string

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.assess.forecast import Forecast
from streamrecon.assess.report import FitSummary, OpticsGroupSummary, SymmetrySummary
from streamrecon.errors import TransportError
from streamrecon.transport import schema

numbers = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | numbers
counts = st.integers(0, 2**53)
words = st.text(min_size=1, max_size=20)
curves = st.lists(numbers, max_size=3)
envelope = {"session_id": words, "sequence": counts, "timestamp": numbers}
progress = {
    **envelope,
    "stage": words,
    "particles_seen": counts,
    "image_visits": counts,
    "resolution_angstrom": maybe,
    "fsc_kind": words,
}
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text(max_size=20)


@st.composite
def volumes(draw):
    shape = draw(st.tuples(*[st.integers(1, 4)] * 3))
    raw = draw(st.binary(min_size=4 * int(np.prod(shape)), max_size=4 * int(np.prod(shape))))
    header = draw(
        st.builds(
            schema.VolumeHeader,
            **progress,
            shape=st.just(shape),
            voxel_size_angstrom=st.floats(0.01, 100),
            checksum=st.just(schema.checksum_of(raw)),
        )
    )
    array = np.frombuffer(raw, "<f4").reshape(shape)
    return schema.VolumeMessage(draw(st.sampled_from(schema.VOLUME_TOPICS)), header, array)


@st.composite
def poses(draw):
    n, columns = draw(st.integers(1, 5)), draw(st.lists(words, min_size=1, max_size=5).map(tuple))
    raw = draw(st.binary(min_size=4 * n * len(columns), max_size=4 * n * len(columns)))
    header = draw(
        st.builds(
            schema.PosesHeader,
            **progress,
            shape=st.just((n, len(columns))),
            columns=st.just(columns),
            batch=counts,
            first_particle=counts,
            checksum=st.just(schema.checksum_of(raw)),
        )
    )
    return schema.PosesMessage(schema.POSES, header, np.frombuffer(raw, "<f4").reshape(n, len(columns)))


@st.composite
def previews(draw):
    side = draw(st.integers(1, 4))
    raw = draw(st.binary(min_size=side**3, max_size=side**3))
    header = draw(
        st.builds(
            schema.PreviewHeader,
            **progress,
            shape=st.just((side, side, side)),
            scale=st.floats(1e-6, 1e6),
            offset=numbers,
            voxel_size_angstrom=st.floats(0.01, 100),
            checksum=st.just(schema.checksum_of(raw)),
        )
    )
    return schema.PreviewMessage(schema.VOLUME_PREVIEW, header, np.frombuffer(raw, "|i1").reshape((side,) * 3))


events = st.builds(
    schema.EventMessage,
    st.just(schema.EVENT),
    st.builds(
        schema.EventHeader,
        **envelope,
        kind=words,
        text=st.text(max_size=50),
        fields=st.dictionaries(words, scalars, max_size=4),
    ),
)
statuses = st.builds(
    schema.StatusMessage,
    st.just(schema.STATUS),
    st.builds(
        schema.StatusHeader,
        **progress,
        step=counts,
        k_max=counts,
        temperature=maybe,
        effective_sample_size=maybe,
        coarse_entropy=maybe,
        step_seconds=maybe,
        images_per_second=maybe,
        evaluations_per_image=maybe,
        log_evidence=maybe,
    ),
)
assessments = st.builds(
    schema.AssessmentMessage,
    st.just(schema.ASSESSMENT),
    st.builds(
        schema.AssessmentHeader,
        **progress,
        box_size=st.integers(1, 4096),
        voxel_size_angstrom=st.floats(0.01, 100),
        resolution_unmasked_angstrom=maybe,
        resolution_masked_angstrom=maybe,
        resolution_half_angstrom=maybe,
        fsc_unmasked=curves,
        fsc_masked=curves,
        fsc_randomised=curves,
        fsc_corrected=curves,
        b_factor_angstrom2=maybe,
        sharpening_b_factor=maybe,
        resolution_history=st.lists(st.tuples(counts, numbers), max_size=3),
        fit=st.none() | st.builds(FitSummary, numbers, numbers, maybe, counts),
        forecast=st.lists(st.builds(Forecast, numbers, *[maybe] * 6), max_size=2),
        angular_n_side=counts,
        angular_counts=st.lists(counts, max_size=3),
        angular_efficiency=maybe,
        tilt_suggestion_degrees=maybe,
        conical_fsc_area_ratio=maybe,
        noise_variance=st.lists(curves, max_size=2),
        optics_groups=st.lists(st.builds(OpticsGroupSummary, words, counts, *[maybe] * 4), max_size=2),
        defocus_edges_angstrom=curves,
        defocus_counts=st.lists(counts, max_size=3),
        symmetry=st.none() | st.builds(SymmetrySummary, words, numbers, st.booleans(), words),
    ),
)
heartbeats = st.builds(
    schema.HeartbeatMessage,
    st.just(schema.HEARTBEAT),
    st.builds(schema.HeartbeatHeader, **envelope, last_sequence=st.dictionaries(words, counts, max_size=4)),
)


@given(events | statuses | heartbeats | assessments)
def test_plain_messages_survive_the_way(message):
    assert schema.deserialize([bytes(f) for f in schema.serialize(message)]) == message


@given(poses() | previews())
def test_poses_and_previews_survive_the_way_bit_for_bit(message):
    array = schema.KINDS[message.topic].array
    back = schema.deserialize([bytes(f) for f in schema.serialize(message)])
    assert (back.topic, back.header) == (message.topic, message.header)
    assert getattr(back, array).tobytes() == getattr(message, array).tobytes()
    assert getattr(back, array).shape == message.header.shape


@given(volumes())
def test_volumes_survive_the_way_bit_for_bit(message):
    back = schema.deserialize([bytes(f) for f in schema.serialize(message)])
    assert back.topic == message.topic
    assert back.header == message.header
    assert back.volume.tobytes() == message.volume.tobytes()
    assert back.volume.shape == message.volume.shape


json_like = st.recursive(
    scalars | st.sampled_from([1, "volume", "status", "<f4", "|O"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["protocol_version", "type", "shape", "dtype", "checksum", "sequence", "session_id"])
            | words,
            inner,
            max_size=6,
        )
    ),
    max_leaves=10,
)


@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from([t.encode() for t in schema.TOPICS])
        | json_like.map(lambda v: str(v).replace("'", '"').encode("utf-8", "surrogatepass"))
        | st.text(string.printable, max_size=60).map(str.encode),
        max_size=4,
    )
)
def test_random_frames_raise_nothing_but_transport_errors(frames):
    with contextlib.suppress(TransportError):
        schema.deserialize(frames)
    with contextlib.suppress(TransportError):
        schema.decode_snapshot_request(frames)


@given(volumes(), st.data())
def test_a_message_with_a_damaged_byte_is_refused_or_equal(message, data):
    """A flipped byte may leave the header valid (a digit), but never the array."""
    frames = [bytes(f) for f in schema.serialize(message)]
    which = data.draw(st.integers(0, 2))
    position = data.draw(st.integers(0, len(frames[which]) - 1))
    damaged = bytearray(frames[which])
    damaged[position] ^= data.draw(st.integers(1, 255))
    frames[which] = bytes(damaged)
    try:
        back = schema.deserialize(frames)
    except TransportError:
        return
    assert which != 2
    assert back.volume.tobytes() == message.volume.tobytes()
