from hypothesis import given
from hypothesis import strategies as st

from streamrecon.transport.batch_ids import BatchIds

ids = st.lists(st.integers(1, 40), max_size=60)


@given(ids, ids)
def test_it_is_a_set(added, asked):
    found = BatchIds()
    for i in added:
        found.add(i)
    assert list(found) == sorted(set(added))
    assert len(found) == len(set(added))
    assert all((i in found) == (i in set(added)) for i in [*asked, 0, 41])
    # ranges never touch: what comes in order stays one range however long it gets
    for (_, last), (first, _) in zip(found.ranges, found.ranges[1:], strict=False):
        assert first > last + 1
    assert list(BatchIds(found.ranges)) == list(found)


def test_a_million_in_order_are_one_range():
    found = BatchIds([(1, 999_999)])
    found.add(1_000_000)
    assert found.ranges == [(1, 1_000_000)]
