"""Ranks as threads of one process: the real exchange, without the time that processes take to start."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress

from streamrecon.worker.ranks.follower import Follower
from streamrecon.worker.ranks.link import CommandSender, Link, Peer
from streamrecon.worker.ranks.memory import SharedMemory


@contextmanager
def linked(size, patience_seconds=60.0):
    """Yield the links of so many ranks; whoever ends should `hang_up`."""
    memories = [(SharedMemory.create("a"), SharedMemory.create("b")) for _ in range(size)]
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(1, size)]
    peers = [Peer(ours, lambda rank=rank: f"rank {rank}") for rank, (ours, _) in enumerate(pairs, start=1)]
    links = [Link(0, size, peers, memories, patience_seconds)]
    links += [
        Link(rank, size, [Peer(theirs, lambda: "rank 0")], memories, patience_seconds)
        for rank, (_, theirs) in enumerate(pairs, start=1)
    ]
    try:
        yield links
    finally:
        for link in links:
            hang_up(link)
        for pair in memories:
            for memory in pair:
                memory.close()


def hang_up(link):
    """Close a rank's connections, as its end does."""
    for peer in link.peers:
        peer.connection.close()


def on_ranks(size, work, patience_seconds=60.0):
    """Run ``work(link)`` on every rank at once; return what each returned, or raise what one raised."""
    results, errors = [None] * size, []

    def run(link):
        try:
            results[link.rank] = work(link)
        except BaseException as error:
            errors.append(error)
            hang_up(link)

    with linked(size, patience_seconds) as links:
        threads = [threading.Thread(target=run, args=(link,)) for link in links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results


class ThreadTeam:
    """What `streamrecon.worker.ranks.team.Team` is, with followers that are threads.

    Parameters
    ----------
    size : int
    sabotage : callable
        Given each follower before it begins to serve.
    """

    def __init__(self, size, sabotage=lambda follower: None, patience_seconds=60.0):
        self._linked = linked(size, patience_seconds)
        self.link, *others = self._linked.__enter__()
        self._orders = SharedMemory.create("orders")
        self.commands = CommandSender(self.link, self._orders)
        self.errors = {}
        self._threads = []
        for link in others:
            follower = Follower(link, self._orders, lambda config: None)
            sabotage(follower)
            self._threads.append(threading.Thread(target=self._serve, args=(follower, link)))
            self._threads[-1].start()

    def _serve(self, follower, link):
        try:
            follower.serve()
        except BaseException as error:
            self.errors[link.rank] = error
        hang_up(link)

    def describe(self, rank):
        return f"rank {rank}"

    def gone(self):
        return ""

    def close(self):
        for peer in self.link.peers:
            # wakes a thread that waits on the other end, and leaves the number taken until it has gone
            with suppress(OSError):
                peer.connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._linked.__exit__(None, None, None)
        self._orders.close()
