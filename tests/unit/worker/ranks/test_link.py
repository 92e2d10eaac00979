"""The exchange between ranks: everybody's arrays, sums of the same bits, and errors that name who is gone."""

import threading

import numpy as np
import pytest

from streamrecon.errors import RankLost
from streamrecon.worker.ranks import link as link_module
from streamrecon.worker.ranks.link import Command, CommandSender, Done, Written
from streamrecon.worker.ranks.memory import SharedMemory
from tests.ranks import hang_up, linked, on_ranks


@pytest.mark.parametrize("size", [2, 3, 5])
def test_everybody_gets_everybodys_arrays_time_after_time(size):
    """Also when one is slow to read: memory is written to again only after all have read it."""

    def work(link):
        for turn in range(50):
            found = link.gather([np.full((turn % 4, 3), link.rank), np.array(turn)])
            for rank, (rows, number) in enumerate(found):
                assert rows.shape == (turn % 4, 3)
                assert (rows == rank).all()
                assert number == turn
        return True

    assert all(on_ranks(size, work))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("block", [7, 1 << 22])
def test_sums_are_those_of_single_precision_in_order_of_rank(rng, monkeypatch, size, block):
    monkeypatch.setattr(link_module, "_BLOCK_ELEMENTS", block)
    arrays = rng.normal(size=(size, 5, 4, 3)).astype(np.float32)
    kept = arrays.copy()
    expected = arrays[0].copy()
    for array in arrays[1:]:
        expected += array
    for found in on_ranks(size, lambda link: link.sum(arrays[link.rank])):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(arrays, kept)


def test_sums_of_different_sizes_are_refused():
    with pytest.raises(RankLost, match=r"differ in size \(\[3, 4\]\)"):
        on_ranks(2, lambda link: link.sum(np.ones(3 + link.rank, np.float32)))


def test_one_that_ends_is_named_at_once():
    with linked(3) as links:

        def gather():
            with pytest.raises(RankLost, match="rank 0"):
                links[1].gather([np.ones(2)])

        follower = threading.Thread(target=gather)
        follower.start()
        hang_up(links[2])
        with pytest.raises(RankLost, match="rank 2 is gone"):
            links[0].gather([np.ones(2)])
        hang_up(links[0])
        follower.join(90)
        assert not follower.is_alive()


def test_one_that_is_silent_is_named_after_a_while():
    with linked(3, patience_seconds=0.1) as links:
        links[1].peers[0].send(Written(1, links[1]._memories[1][0].write({}, {})))
        with pytest.raises(RankLost, match=r"^rank 2: silent for 0.1 s \(compute.patience_seconds\)"):
            links[0].gather([])


def test_one_that_does_something_else_is_named():
    with linked(2) as links:
        links[1].peers[0].send(Done("device_error", "out of memory"))
        with pytest.raises(RankLost, match="rank 1 ended its step: out of memory"):
            links[0].gather([])
    with linked(2) as links:
        links[1].peers[0].send(Written(7, 0))
        with pytest.raises(RankLost, match="out of step"):
            links[0].gather([])
    with linked(2) as links:
        links[1].peers[0].connection.send(b"\xc1 nonsense")
        with pytest.raises(RankLost, match="rank 1 sent what is no frame"):
            links[0].gather([])


def test_another_number_of_arrays_is_refused():
    with pytest.raises(RankLost, match=r"out of step|gone"):
        on_ranks(2, lambda link: link.gather([np.ones(2)] * (1 + link.rank)))


def test_commands_reach_all_and_are_waited_for_once():
    with linked(3) as links:
        orders = SharedMemory.create("orders")
        sender = CommandSender(links[0], orders)
        assert sender.wait() == {}
        sender.send("fold", {"n": 3}, {"images": np.arange(6.0)})
        for link in links[1:]:
            frame = link.peers[0].receive()
            assert isinstance(frame, Command)
            words, arrays = orders.read(frame.n_bytes)
            assert words == {"verb": "fold", "n": 3}
            np.testing.assert_array_equal(arrays["images"], np.arange(6.0))
            link.peers[0].send(Done(facts={"rank": str(link.rank)}))
        assert {rank: done.facts for rank, done in sender.wait().items()} == {1: {"rank": "1"}, 2: {"rank": "2"}}
        assert sender.wait() == {}
        orders.close()
