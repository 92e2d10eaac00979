"""Recordings: what was written comes back, whatever cut the file short."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrecon.errors import IngestError, StateError, UnsupportedFormat
from streamrecon.transport.recording import Record, RecordingWriter, read_recording

RECORDS = [
    Record(1.5, (b"status/", b"{}")),
    Record(2.25, (b"volume/full/", b'{"a": 1}', bytes(range(256)) * 4)),
    Record(1764107878.123457, (b"event/", b"{}")),
]


def write(path, records, max_bytes=1 << 30):
    with RecordingWriter(path, max_bytes) as writer:
        return [writer.append(r) for r in records]


@given(
    st.lists(
        st.builds(
            Record,
            st.integers(0, 2**50).map(lambda us: us / 1e6),
            st.lists(st.binary(max_size=50), min_size=2, max_size=3).map(tuple),
        ),
        max_size=5,
    )
)
def test_what_was_written_comes_back(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("recording") / "a.rec"
    assert all(write(path, records))
    back = list(read_recording(path))
    assert [r.frames for r in back] == [r.frames for r in records]
    assert [r.arrived for r in back] == pytest.approx([r.arrived for r in records], abs=1e-6)


def test_cut_anywhere_it_ends_at_the_last_whole_record_and_goes_on_from_there(tmp_path):
    path = tmp_path / "a.rec"
    ends = []
    with RecordingWriter(path, 1 << 30) as writer:
        for record in RECORDS:
            writer.append(record)
            ends.append(writer.n_bytes)
    whole = path.read_bytes()
    assert len(whole) == ends[-1]
    first = len(b"streamrecon recording 1\n")
    for size in range(first, len(whole), 7):
        path.write_bytes(whole[:size])
        expected = RECORDS[: sum(end <= size for end in ends)]
        assert list(read_recording(path)) == expected
        write(path, RECORDS[2:])
        assert list(read_recording(path)) == [*expected, RECORDS[2]]
        kept = ([first, *ends])[len(expected)]
        assert path.stat().st_size == kept + ends[2] - ends[1], "nothing is left of what was cut"


def test_a_damaged_byte_ends_it_before_the_record(tmp_path):
    path = tmp_path / "a.rec"
    write(path, RECORDS)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    assert list(read_recording(path)) == RECORDS[:2]


def test_a_length_that_lies_asks_for_no_memory(tmp_path):
    path = tmp_path / "a.rec"
    write(path, RECORDS[:1])
    position = len(b"streamrecon recording 1\n") + 8 + 9 + 8
    whole = bytearray(path.read_bytes())
    whole[position : position + 8] = (2**63).to_bytes(8, "little")
    path.write_bytes(whole)
    assert list(read_recording(path)) == []


def test_it_never_gets_larger_than_allowed(tmp_path):
    path = tmp_path / "a.rec"
    assert write(path, RECORDS, max_bytes=300) == [True, False, True]
    assert path.stat().st_size <= 300
    assert list(read_recording(path)) == [RECORDS[0], RECORDS[2]]


def test_other_files_and_versions_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "a.rec"
    for content, expected in ((b"precious", "begins with"), (b"streamrecon recording 2\nx", "version 1, found '2'")):
        path.write_bytes(content)
        with pytest.raises(UnsupportedFormat, match=expected):
            list(read_recording(path))
        with pytest.raises(UnsupportedFormat, match=expected):
            RecordingWriter(path, 1 << 20)
        assert path.read_bytes() == content


def test_a_path_that_cannot_be_is_told(tmp_path):
    with pytest.raises(IngestError, match="cannot be read"):
        list(read_recording(tmp_path / "none"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="cannot be written"):
        RecordingWriter(tmp_path / "file" / "a.rec", 1 << 20)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110  # a device
def test_a_full_disk_is_told(tmp_path):
    writer = RecordingWriter(tmp_path / "a.rec", 1 << 20)
    writer.close()
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        writer._file = full
        with pytest.raises(StateError, match="free space"):
            writer.append(RECORDS[0])
