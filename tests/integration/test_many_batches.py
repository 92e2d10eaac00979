"""What a Hello costs a ledger of a long session: counted in statements and in steps of SQLite, not in time."""

import itertools

import pytest

from streamrecon.ingest.ledger import Ledger
from streamrecon.transport.batch_ids import BatchIds
from streamrecon.transport.feed_client import FeedClient
from tests.integration.feed_helpers import FREE_PORT, row
from tests.ledgers import add_particles

FEW, MANY = 100, 500
MOST_STEPS = 6  # for a batch that is folded already: to count it


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", "test") as made:
        yield made


def come(ledger, first, last, workers=("w",)):
    """Let batches come, and be folded by these workers in turn."""
    turns = itertools.cycle(workers)
    with ledger.transaction():
        for number in range(first, last + 1):
            particle = row(f"s{number}.mrcs", 0)
            add_particles(ledger, {particle.identity: particle})
            assert ledger.batches.create(ledger.batches.ready_rows(1)) == number
            worker = next(turns)
            ledger.batches.lease_next(worker)
            ledger.batches.fold([number], worker)


def cost(ledger, act):
    """Return what is asked of the ledger, and how many steps that takes."""
    steps, asked = itertools.count(), []
    ledger._connection.set_progress_handler(lambda: next(steps) and 0, 1)
    ledger._connection.set_trace_callback(asked.append)
    try:
        act()
    finally:
        ledger._connection.set_progress_handler(None, 1)
        ledger._connection.set_trace_callback(None)
    return asked, next(steps)


def test_a_hello_asks_as_much_however_long_the_session_is(ledger):
    def hello(last):
        found = ledger.batches.synchronise("w", [(1, last)], [])
        assert found == ([], [], [])
        assert ledger.batches.chain.misfit(last, (last, ledger.batches.chain.at(last))) == ""

    come(ledger, 1, FEW)
    few, few_steps = cost(ledger, lambda: hello(FEW))
    come(ledger, FEW + 1, MANY)
    many, many_steps = cost(ledger, lambda: hello(MANY))
    assert len(many) == len(few) < 20, many
    assert not any("body" in statement for statement in many), many
    assert many_steps - few_steps <= MOST_STEPS * (MANY - FEW)


def test_what_has_changed_is_all_that_is_asked_for(ledger):
    come(ledger, 1, MANY)
    ledger.batches.synchronise("w", [(1, MANY)], [])
    asked, _ = cost(ledger, lambda: ledger.batches.synchronise("w", [(1, MANY - 3)], []))
    assert ledger.batches.count("queued") == 3
    assert len(asked) < 20 + 3
    folded, refused, requeued = ledger.batches.synchronise("w", [(1, MANY)], [])
    assert [b.batch_id for b in folded] == [MANY - 2, MANY - 1, MANY]
    assert (refused, requeued) == ([], [])


def test_it_is_what_going_through_all_batches_would_say(ledger):
    """For two workers in turn, with batches withdrawn, fallen back from, unknown, and another's."""
    come(ledger, 1, 40, ("one", "two"))
    for state, batch_id in (("withdrawn", 7), ("queued", 9), ("leased", 11)):
        worker = "" if state == "queued" else "one"
        ledger._connection.execute("UPDATE batches SET state = ?, worker = ? WHERE id = ?", (state, worker, batch_id))
    folded, refused, requeued = ledger.batches.synchronise(
        "one", [(1, 2), (5, 5), (7, 7), (9, 9), (13, 13), (39, 50)], [15, 12]
    )
    assert [b.batch_id for b in folded] == [9]
    assert [b.worker for b in folded] == [""]
    assert refused == [2, 7, 40, 12]
    assert requeued == [3, 11, *range(17, 39, 2)]
    state = dict(ledger._connection.execute("SELECT id, state FROM batches WHERE worker = 'one'"))
    assert state == {1: "folded", 5: "folded", 7: "withdrawn", 9: "folded", 13: "folded", 15: "leased", 39: "folded"}


def test_numbers_that_the_ledger_never_gave_are_refused(ledger):
    come(ledger, 1, 4)
    ledger._connection.execute("UPDATE sqlite_sequence SET seq = 6 WHERE name = 'batches'")
    come(ledger, 7, 7)
    assert ledger.batches.synchronise("w", [(1, 4), (7, 7)], []) == ([], [], [])
    assert ledger.batches.synchronise("w", [(1, 7)], [])[1] == [7]
    assert ledger.batches.synchronise("w", [(1, 4), (7, 2**62)], [])[1] == [2**62]


def test_counting_goes_through_an_index_alone(ledger):
    plan = ledger._connection.execute(
        "EXPLAIN QUERY PLAN SELECT count(*) FROM batches WHERE state = 'folded' AND worker = ? AND id BETWEEN ? AND ?",
        ("w", 1, 2),
    ).fetchall()
    assert "USING COVERING INDEX batches_state (state=? AND worker=? AND rowid>? AND rowid<?)" in plan[0][3]


def test_a_worker_keeps_ranges_of_what_it_has_folded():
    with FeedClient(FREE_PORT.replace(":0", ":9"), "w", folded=BatchIds([(1, 10**9)])) as client:
        client.ack([10**9 + 1])
        assert client._link._folded.ranges == [(1, 10**9 + 1)]
