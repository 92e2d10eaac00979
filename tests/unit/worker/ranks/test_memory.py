"""Arrays in memory that processes share: they come out as they went in, and nonsense is refused."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from streamrecon.errors import RankLost
from streamrecon.worker.ranks.memory import SharedMemory

ARRAYS = st_numpy.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.int32, np.int64, np.bool_, np.complex64]),
    st_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@pytest.fixture
def shared():
    """One end that writes and one that reads, as two processes have them."""
    writer = SharedMemory.create("test")
    reader = SharedMemory(os.dup(writer.descriptor))
    yield writer, reader
    writer.close()
    reader.close()


@given(
    arrays=st.dictionaries(st.text(max_size=8), ARRAYS, max_size=5),
    words=st.dictionaries(st.text(max_size=8), st.none() | st.floats() | st.integers(-(2**60), 2**60) | st.text()),
)
def test_what_is_written_is_read(arrays, words):
    writer = SharedMemory.create("test")
    reader = SharedMemory(os.dup(writer.descriptor))
    found_words, found = reader.read(writer.write(words, arrays))
    assert repr(found_words) == repr(words)  # NaN is NaN
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    writer.close()
    reader.close()


def test_strided_arrays_and_the_columns_of_one_come_whole(shared, rng):
    writer, reader = shared
    array = rng.normal(size=(6, 5, 4)).astype(np.float32)
    parts = {"every third": array[1::3], "transposed": array.T, "a column": array[:, 2]}
    _, found = reader.read(writer.write({}, parts))
    for name, part in parts.items():
        np.testing.assert_array_equal(found[name], part)


def test_it_grows_and_what_was_read_before_stays_readable(shared):
    writer, reader = shared
    _, small = reader.read(writer.write({}, {"a": np.arange(4)}))
    _, large = reader.read(writer.write({}, {"a": np.arange(100_000)}))
    np.testing.assert_array_equal(large["a"], np.arange(100_000))
    assert len(small["a"]) == 4
    _, again = reader.read(writer.write({}, {"a": np.arange(3)}))
    np.testing.assert_array_equal(again["a"], [0, 1, 2])


@pytest.mark.parametrize("n_bytes", [0, 7, 10**9, -1])
def test_a_length_that_cannot_be_is_refused(shared, n_bytes):
    writer, reader = shared
    writer.write({}, {"a": np.arange(4)})
    with pytest.raises(RankLost, match="cannot be read"):
        reader.read(n_bytes)


def test_an_array_that_reaches_beyond_the_end_is_refused(shared):
    writer, reader = shared
    n_bytes = writer.write({}, {"a": np.arange(100)})
    with pytest.raises(RankLost, match="array a reaches beyond the end"):
        reader.read(n_bytes - 64)


def test_nothing_is_left_behind_in_the_file_system(shared):
    writer, _ = shared
    writer.write({}, {"a": np.arange(1000)})
    assert os.fstat(writer.descriptor).st_nlink == 0
