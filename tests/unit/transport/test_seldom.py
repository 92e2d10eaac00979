from streamrecon.transport.seldom import Seldom


def test_the_first_of_a_kind_and_then_one_a_minute_with_how_many_came():
    now = [0.0]
    seldom = Seldom(60.0, lambda: now[0])
    assert [seldom.due("garbage") for _ in range(4)] == [1, 0, 0, 0]
    assert seldom.due("version") == 1
    now[0] = 59.0
    assert seldom.due("garbage") == 0
    now[0] = 60.0
    assert [seldom.due("garbage"), seldom.due("garbage")] == [5, 0]
    now[0] = 1000.0
    assert seldom.due("garbage") == 2
