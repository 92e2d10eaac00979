import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.errors import ProtocolVersionError, TransportError
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable
from streamrecon.transport import feed_schema
from streamrecon.transport.feed_schema import (
    PROTOCOL_VERSION,
    Ack,
    Batch,
    Bye,
    Credit,
    Drain,
    Drained,
    ErrorReply,
    Heartbeat,
    Hello,
    Nack,
    Pause,
    Welcome,
    compress_ids,
    decode_ingest_message,
    decode_worker_message,
    encode,
    in_ranges,
)
from streamrecon.transport.table_wire import table_from_rows, table_from_wire, table_to_rows, table_to_wire

GROUPS = (OpticsGroup("unused", 200, 1.4, 0.07, 1.0, 4), OpticsGroup("g", 300.0, 2.7, 0.1, 1.06, 4))


def make_table(n=3, pose=True):
    rng = np.random.default_rng(0)
    defocus = rng.uniform(5000, 30000, n).astype(np.float32)
    defocus[0] = np.nan
    return ParticleTable(
        optics_groups=GROUPS,
        stack_names=("/r/unused.mrcs", "/r/Größe 1.mrcs", "/r/b.mrcs"),
        optics_group_index=np.ones(n, np.int32),
        stack_number=np.arange(n, dtype=np.int32) % 2 + 1,
        stack_index=np.arange(n, dtype=np.int32) * 7,
        defocus_u_angstrom=defocus,
        defocus_v_angstrom=defocus + np.float32(0.1),
        astigmatism_angle_degrees=rng.uniform(-90, 90, n).astype(np.float32),
        phase_shift_degrees=np.zeros(n, np.float32),
        rotation=rng.standard_normal((n, 3, 3)).astype(np.float32) if pose else None,
        shift_angstrom=rng.standard_normal((n, 2)).astype(np.float32) if pose else None,
        micrograph_names=tuple(f"m{i % 2}.mrc" for i in range(n)) if pose else None,
    )


def assert_same_particles(found, expected):
    assert found.identities() == expected.identities()
    assert found.micrograph_names == expected.micrograph_names
    for name in (
        "defocus_u_angstrom", "defocus_v_angstrom", "astigmatism_angle_degrees", "phase_shift_degrees",
        "rotation", "shift_angstrom",
    ):  # fmt: skip
        a, b = getattr(found, name), getattr(expected, name)
        if b is None:
            assert a is None
        else:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    groups = [[t.optics_groups[g] for g in t.optics_group_index] for t in (found, expected)]
    assert groups[0] == groups[1]


@pytest.mark.parametrize("pose", [True, False])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_table_there_and_back_is_exact(n, pose):
    table = make_table(max(n, 1), pose).select(slice(0, n))
    wire = table_to_wire(table)
    assert_same_particles(table_from_wire(wire), table)
    assert len(wire) == n
    assert "/r/unused.mrcs" not in wire.stack_names
    assert "unused" not in [g.name for g in wire.optics_groups]


@pytest.mark.parametrize("pose", [True, False])
def test_rows_there_and_back_are_exact(pose):
    table = make_table(5, pose)
    rows = table_to_rows(table)
    assert [r.identity for r in rows] == table.identities()
    assert_same_particles(table_from_rows(rows), table)


def test_mixed_rows_keep_only_what_all_have():
    table = table_from_rows([*table_to_rows(make_table(2)), *table_to_rows(make_table(2, pose=False))])
    assert len(table) == 4
    assert table.rotation is table.shift_angstrom is table.micrograph_names is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("stack_number", [0, 1, 99]),
        ("stack_number", [0, 1, -1]),
        ("optics_group_index", [0, 0]),
        ("defocus_u_angstrom", [1.0]),
        ("rotation", [1.0] * 26),
        ("micrograph_number", [0, 1, 2]),
    ],
)
def test_columns_that_do_not_fit_are_refused(column, value):
    import msgspec

    wire = msgspec.structs.replace(table_to_wire(make_table()), **{column: value})
    with pytest.raises(TransportError, match=column):
        table_from_wire(wire)


def hello(**changes):
    fields = {"version": PROTOCOL_VERSION, "worker_id": "w", "hostname": "h", "credits": 4, **changes}
    return Hello(**fields)


@pytest.mark.parametrize(
    "message",
    [
        hello(folded=[(1, 5), (7, 7)], held=[6], tip=(7, "0f")),
        Credit(3),
        Ack([1, 2]),
        Nack(3, "k", "why"),
        Drain(),
        Heartbeat(),
        Bye(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_worker_messages_there_and_back(message):
    assert decode_worker_message(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Welcome(version=PROTOCOL_VERSION, session="s", session_name="n", lease_seconds=1.0),
        Pause(),
        Drained(),
        ErrorReply("unknown_worker", "say Hello"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_ingest_messages_there_and_back(message):
    assert decode_ingest_message(encode(message)) == (message, None)


def batch(*, by_reference, table=None):
    table = table or make_table()
    return Batch(
        batch_id=1,
        session="s",
        table=table_to_wire(table),
        identities=table.identities(),
        by_reference=by_reference,
        box_size=4,
    )


def test_batch_with_pixels():
    pixels = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    message, found = decode_ingest_message(encode(batch(by_reference=False), pixels))
    assert message == batch(by_reference=False)
    np.testing.assert_array_equal(found, pixels)
    assert found.flags.writeable


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 4, 5), (0, 4, 4)])
def test_pixels_that_do_not_fit_are_refused(shape):
    with pytest.raises(TransportError, match="192 bytes"):
        decode_ingest_message(encode(batch(by_reference=False), np.zeros(shape, np.float32)))


def test_frames_too_many_or_missing():
    with pytest.raises(TransportError, match="found 0"):
        decode_ingest_message(encode(batch(by_reference=False)))
    with pytest.raises(TransportError, match="expected 1 frame"):
        decode_ingest_message([*encode(batch(by_reference=True)), b"more"])
    with pytest.raises(TransportError, match="0 frames"):
        decode_worker_message([])


def test_identities_that_do_not_match_the_rows():
    import msgspec

    wrong = msgspec.structs.replace(batch(by_reference=True), identities=["000001@a"])
    with pytest.raises(TransportError, match="1 identities for 3 rows"):
        decode_ingest_message(encode(wrong))


def test_other_versions_are_told_apart_from_garbage():
    with pytest.raises(ProtocolVersionError, match="speaks feed protocol 1, this side 2"):
        decode_worker_message(encode(hello(version=1)))
    welcome = Welcome(version=1, session="s", session_name="n", lease_seconds=1.0)
    with pytest.raises(ProtocolVersionError):
        decode_ingest_message(encode(welcome))


def test_header_beyond_the_limit_is_refused_unread(monkeypatch):
    monkeypatch.setattr(feed_schema, "MAX_HEADER_BYTES", 10)
    with pytest.raises(TransportError, match="at most 10"):
        decode_worker_message(encode(Ack([1, 2, 3, 4, 5])))


@pytest.mark.parametrize(
    "frame",
    [
        b'{"type":"ack","batch_ids":[0]}',
        b'{"type":"ack","batch_ids":["1"]}',
        b'{"type":"credit","n":1e9}',
        b'{"type":"drained"}',
        b'{"type":"ack","batch_ids":[1]',
        b'{"type":"ack","batch_ids":[9223372036854775808]}',
        b'{"deep":' + b"[" * 5000,
        b'{"type":"ack","batch_ids":[' + b",".join([b"1"] * 20_001) + b"]}",
    ],
)
def test_messages_out_of_bounds_are_refused(frame):
    with pytest.raises(TransportError, match="feed protocol"):
        decode_worker_message([frame])


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_a_message_or_an_error_of_ours(frames):
    for decode in (decode_worker_message, decode_ingest_message):
        with pytest.raises(TransportError):
            decode(frames)


@given(st.sets(st.integers(1, 60)))
def test_ids_as_ranges_are_the_same_ids(ids):
    ranges = compress_ids(ids)
    assert {i for i in range(62) if in_ranges(i, ranges)} == ids
    assert all(b[0] - a[1] > 1 for a, b in itertools.pairwise(ranges))


@pytest.mark.parametrize("folded", [[(3, 2)], [(1, 4), (4, 5)], [(5, 6), (1, 2)], [(1, 2**62), (1, 2**62)]])
def test_ranges_that_do_not_ascend_are_refused(folded):
    """Overlapping ones could make the ingester count to any number of batches."""
    hello = Hello(version=PROTOCOL_VERSION, worker_id="w", hostname="h", credits=1, folded=folded)
    with pytest.raises(TransportError, match="ascending ranges"):
        decode_worker_message(encode(hello))


def test_a_number_that_float32_cannot_hold_is_refused():
    table = table_to_wire(make_table())
    wire = msgspec.structs.replace(table, defocus_u_angstrom=[1e39] * len(table))
    with pytest.raises(TransportError, match="float32"):
        table_from_wire(wire)
