import json

import numpy as np
import pytest

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.transport import schema


def volume_message(shape=(4, 5, 6)):
    volume = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    header = schema.VolumeHeader(
        session_id="s",
        sequence=3,
        timestamp=1.5,
        stage="searching",
        particles_seen=100,
        image_visits=120,
        resolution_angstrom=None,
        fsc_kind="common",
        shape=shape,
        voxel_size_angstrom=2.5,
        checksum=schema.checksum_of(volume.tobytes()),
    )
    return schema.VolumeMessage(schema.VOLUME_FULL, header, volume)


def frames_with(**changes):
    frames = [bytes(f) for f in schema.serialize(volume_message())]
    header = json.loads(frames[1])
    header.update(changes)
    frames[1] = json.dumps(header).encode()
    return frames


def test_volume_frames_are_what_the_documentation_says():
    message = volume_message()
    topic, header, raw = schema.serialize(message)
    assert topic == b"volume/full/"
    fields = json.loads(header)
    assert fields["protocol_version"] == 1
    assert fields["shape"] == [4, 5, 6]
    assert fields["dtype"] == "<f4"
    assert fields["resolution_angstrom"] is None
    array = np.frombuffer(raw, fields["dtype"]).reshape(fields["shape"])
    assert array[1, 2, 3] == message.volume[1, 2, 3] == 1 * 30 + 2 * 6 + 3


def test_array_comes_back_read_only_and_fortran_order_goes_out_as_c():
    message = volume_message()
    turned = schema.VolumeMessage(message.topic, message.header, np.asfortranarray(message.volume))
    back = schema.deserialize(schema.serialize(turned))
    np.testing.assert_array_equal(back.volume, message.volume)
    with pytest.raises(ValueError, match="read-only"):
        back.volume[0, 0, 0] = 1


def test_other_protocol_version_is_named():
    with pytest.raises(ProtocolVersionError, match=r"version 2, this program 1"):
        schema.deserialize(frames_with(protocol_version=2, shape="what version 2 means by it"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [4, 5, 7]}, "needs 560 bytes, the frame has 480"),
        ({"shape": [4096, 4096, 4096]}, "at most"),
        ({"shape": [-4, -5, 6]}, "bad header"),
        ({"shape": [4, 30]}, "bad header"),
        ({"dtype": "<f8"}, "bad header"),
        ({"dtype": "|O"}, "bad header"),
        ({"checksum": "00"}, "altered"),
        ({"type": "status"}, "bad header"),
        ({"type": "pickle"}, "bad header"),
        ({"sequence": -1}, "bad header"),
        ({"voxel_size_angstrom": 0.0}, "bad header"),
    ],
)
def test_a_header_that_lies_is_refused(changes, message):
    with pytest.raises(TransportError, match=message):
        schema.deserialize(frames_with(**changes))


def test_a_flipped_bit_is_found():
    frames = frames_with()
    raw = bytearray(frames[2])
    raw[100] ^= 1
    with pytest.raises(TransportError, match="altered"):
        schema.deserialize([*frames[:2], bytes(raw)])


def test_huge_header_is_refused_before_it_is_parsed():
    with pytest.raises(TransportError, match="at most 65536"):
        schema.deserialize([b"status/", b" " * 70_000])


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"status/"],
        [b"nonsense/", b"{}"],
        [b"status", b"{}"],
        [b"status/", b"\xff"],
        [b"status/", b"[" * 60_000],
    ],
)
def test_malformed_frames_are_transport_errors(frames):
    with pytest.raises(TransportError):
        schema.deserialize(frames)


def test_frame_count_must_fit_the_type():
    frames = frames_with()
    with pytest.raises(TransportError, match="missing"):
        schema.deserialize(frames[:2])
    event = schema.EventHeader(session_id="s", sequence=1, timestamp=0.0, kind="k", text="t")
    plain = schema.serialize(schema.EventMessage(schema.EVENT, event))
    with pytest.raises(TransportError, match="where none belongs"):
        schema.deserialize([*plain, b"x"])


def test_a_message_cannot_go_out_under_a_foreign_topic_or_too_large():
    event = schema.EventHeader(session_id="s", sequence=1, timestamp=0.0, kind="k", text="t" * 70_000)
    with pytest.raises(TransportError, match="cannot go out"):
        schema.serialize(schema.EventMessage(schema.STATUS, event))
    with pytest.raises(TransportError, match="put less"):
        schema.serialize(schema.EventMessage(schema.EVENT, event))


def test_snapshot_request_survives_the_way_and_garbage_does_not():
    request = schema.decode_snapshot_request(schema.encode_snapshot_request(["volume/"]))
    assert request.topics == ("volume/",)
    for bad in ([], [b"snapshot"], [b"other", b"{}"], [b"snapshot", b"{}"], [b"snapshot", b"\xff"]):
        with pytest.raises(TransportError):
            schema.decode_snapshot_request(bad)
