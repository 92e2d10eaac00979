import itertools

from hypothesis import given
from hypothesis import strategies as st

from streamrecon.notices.notice import Notice
from streamrecon.notices.quiet import QuietTimes


def notice(text="t", kind="batch_refused", at=0.0):
    return Notice(kind, "grid7", text, at)


def test_the_first_goes_at_once_and_the_rest_in_one():
    quiet = QuietTimes(300)
    assert quiet.admit(notice("a"), 0) == notice("a")
    assert quiet.admit(notice("b"), 1) is None
    assert quiet.admit(notice("c"), 2) is None
    assert quiet.due(299) == []
    (gathered,) = quiet.due(300)
    assert gathered.text == "c (2 such notices since the last one)"
    assert quiet.due(1000) == []
    # the gathered one counts as told
    assert quiet.admit(notice("d"), 599) is None
    assert [n.text for n in quiet.due(600)] == ["d"]


def test_one_that_comes_late_does_not_displace_those_that_wait():
    quiet = QuietTimes(300)
    quiet.admit(notice("a"), 0)
    quiet.admit(notice("b"), 1)
    assert quiet.admit(notice("c"), 400) is None
    assert [n.text for n in quiet.due(400)] == ["c (2 such notices since the last one)"]


def test_kinds_do_not_silence_each_other():
    quiet = QuietTimes(300)
    assert quiet.admit(notice(), 0)
    assert quiet.admit(notice(kind="failure"), 0)


def test_nothing_is_kept_back_at_the_end():
    quiet = QuietTimes(300)
    quiet.admit(notice("a"), 0)
    quiet.admit(notice("b"), 1)
    assert [n.text for n in quiet.due(2, all_of_them=True)] == ["b"]


@given(st.lists(st.tuples(st.floats(0, 1000), st.sampled_from(["failure", "stage"])), max_size=60), st.floats(1, 200))
def test_a_kind_is_never_told_twice_within_the_quiet_time_and_none_is_lost(times, seconds):
    quiet = QuietTimes(seconds)
    told = []
    for now, kind in sorted(times):
        told += [(n, now) for n in quiet.due(now)]
        if (admitted := quiet.admit(notice("one", kind), now)) is not None:
            told.append((admitted, now))
    for kind in ("failure", "stage"):
        moments = [now for n, now in told if n.kind == kind]
        assert all(b - a >= seconds for a, b in itertools.pairwise(moments))
    told += [(n, 0) for n in quiet.due(2000)]
    counts = [int(n.text.split("(")[1].split()[0]) if "(" in n.text else 1 for n, _ in told]
    assert sum(counts) == len(times)
