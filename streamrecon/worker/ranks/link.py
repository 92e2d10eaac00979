"""How the ranks of one host exchange arrays: each writes into memory that all can read, then they wait for each other.

Rank 0 leads. A connection to every other rank carries a few bytes a time: "I have written", "all have written", "here
is a command", "I have done it". What is exchanged lies in shared memory. A rank that is gone closes its connection, so
that rank 0 knows at once; one that only hangs is waited for so long and no longer.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrecon.errors import RankLost
from streamrecon.worker.ranks.memory import SharedMemory, numbered

_FRAME_BYTES = 4096
_BLOCK_ELEMENTS = 1 << 22  # of a sum at a time: bounds the shared memory, whatever the size of the map


class Written(msgspec.Struct, frozen=True, tag="written"):
    """One rank has written for exchange number ``number``."""

    number: int
    n_bytes: int


class AllWritten(msgspec.Struct, frozen=True, tag="all_written"):
    """Every rank has written for exchange number ``number``."""

    number: int
    n_bytes: list[int]


class Command(msgspec.Struct, frozen=True, tag="command"):
    """What to do lies in rank 0's memory for commands."""

    n_bytes: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The command is done, or has ended in an error of a kind (one of `StreamReconError`'s), the same on all."""

    error_kind: str = ""
    text: str = ""
    facts: dict[str, str] = {}


Frame = Written | AllWritten | Command | Done
_decoder = msgspec.msgpack.Decoder(Frame)


class Peer:
    """A connection to another rank.

    Parameters
    ----------
    connection : socket.socket
        Of a pair, SOCK_SEQPACKET.
    describe : callable
        Says who it is, and what is known of its end.
    """

    def __init__(self, connection: socket.socket, describe: Callable[[], str]) -> None:
        self.connection = connection
        self.describe = describe

    def send(self, frame: Frame) -> None:
        """Send a frame.

        Raises
        ------
        RankLost
            The other end is gone.
        """
        try:
            self.connection.sendall(msgspec.msgpack.encode(frame))
        except OSError as error:
            raise RankLost(f"{self.describe()} is gone ({error})") from error

    def receive(self) -> Frame:
        """Return the next frame; waits for it.

        Raises
        ------
        RankLost
            The other end is gone, or sends what is no frame.
        """
        try:
            data = self.connection.recv(_FRAME_BYTES)
        except OSError as error:
            raise RankLost(f"{self.describe()} is gone ({error})") from error
        if not data:
            raise RankLost(f"{self.describe()} is gone")
        try:
            frame: Frame = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise RankLost(f"{self.describe()} sent what is no frame: {error}") from error
        return frame


class Link:
    """One rank's end of the exchange: a `streamrecon.reconstruct.collective.Collective` of host arrays.

    Parameters
    ----------
    rank, size : int
    peers : sequence of Peer
        Rank 0: one to each of the others, in their order. The others: the one to rank 0.
    memories : sequence of (SharedMemory, SharedMemory)
        Every rank's two, by rank. They are written to in turns: by the time one is written to again, everybody has
        read what was in it, or the exchange between would not have come about.
    patience_seconds : float
        How long rank 0 waits for the others.

    Attributes
    ----------
    waited_seconds : float
        Spent waiting for others so far: where it is much of the time, they are slower or have more to do.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        peers: Sequence[Peer],
        memories: Sequence[tuple[SharedMemory, SharedMemory]],
        patience_seconds: float,
    ) -> None:
        self.rank, self.size = rank, size
        self.peers = list(peers)
        self._memories = memories
        self._patience_seconds = patience_seconds
        self._number = 0
        self.waited_seconds = 0.0

    def gather(self, arrays: Sequence[NDArray[Any]]) -> list[list[NDArray[Any]]]:
        """Return every rank's arrays, by rank; good until the next call.

        Raises
        ------
        RankLost
            A rank is gone, hangs, or does something else.
        """
        turn = self._number % 2
        n_bytes = self._memories[self.rank][turn].write({}, numbered(arrays))
        began = time.perf_counter()
        everybody = self._meet(n_bytes)
        self.waited_seconds += time.perf_counter() - began
        found = [memory[turn].read(n)[1] for memory, n in zip(self._memories, everybody, strict=True)]
        counts = {len(arrays) for arrays in found}
        if len(counts) != 1:
            raise RankLost(f"exchange {self._number}: the ranks sent {sorted(counts)} arrays; they are out of step")
        return [list(arrays.values()) for arrays in found]

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of every rank's array, added in order of rank: the same bits on each.

        Raises
        ------
        RankLost
            A rank is gone, hangs, or has an array of another size.
        """
        flat = np.ascontiguousarray(array).reshape(-1)
        total = np.empty_like(flat)
        for start in range(0, len(flat), _BLOCK_ELEMENTS):
            block = slice(start, start + _BLOCK_ELEMENTS)
            parts = [arrays[0] for arrays in self.gather([flat[block]])]
            sizes = {part.size for part in parts}
            if sizes != {flat[block].size}:
                raise RankLost(f"the ranks' sums differ in size ({sorted(sizes)}); they are out of step")
            # each adds up a part of the block and hands it round
            own = self._part(len(parts[0]), self.rank)
            added = parts[0][own].copy()
            for part in parts[1:]:
                added += part[own]
            for rank, arrays in enumerate(self.gather([added])):
                total[block][self._part(len(parts[0]), rank)] = arrays[0]
        return total.reshape(array.shape)

    def _part(self, n: int, rank: int) -> slice:
        return slice(rank * n // self.size, (rank + 1) * n // self.size)

    def _meet(self, n_bytes: int) -> list[int]:
        """Say that this rank has written, wait until all have; return how much each has."""
        self._number += 1
        if self.rank:
            self.peers[0].send(Written(self._number, n_bytes))
            frame = self.peers[0].receive()
            if not isinstance(frame, AllWritten) or frame.number != self._number:
                raise RankLost(f"exchange {self._number}: rank 0 sent {frame}; the ranks are out of step")
            return frame.n_bytes
        everybody = [n_bytes] + [0] * len(self.peers)
        for rank, frame in self.wait_for_all().items():
            if not isinstance(frame, Written) or frame.number != self._number:
                who = self.peers[rank - 1].describe()
                what = f"ended its step: {frame.text}" if isinstance(frame, Done) else f"sent {frame}"
                raise RankLost(f"exchange {self._number}: {who} {what}; the ranks are out of step")
            everybody[rank] = frame.n_bytes
        for peer in self.peers:
            peer.send(AllWritten(self._number, everybody))
        return everybody

    def wait_for_all(self, patience_seconds: float | None = None) -> dict[int, Frame]:
        """Return one frame of each of the other ranks; for rank 0, which waits as long as usual or as said.

        Raises
        ------
        RankLost
            One is gone, or silent for too long.
        """
        waiting = {peer.connection.fileno(): rank for rank, peer in enumerate(self.peers, start=1)}
        poll = select.poll()
        for descriptor in waiting:
            poll.register(descriptor, select.POLLIN)
        found: dict[int, Frame] = {}
        patience = self._patience_seconds if patience_seconds is None else patience_seconds
        end = time.monotonic() + patience
        while waiting:
            ready = poll.poll(max(0.0, 1000 * (end - time.monotonic())))
            if not ready:
                silent = ", ".join(self.peers[rank - 1].describe() for rank in waiting.values())
                raise RankLost(f"{silent}: silent for {patience:g} s (compute.patience_seconds); see the log")
            for descriptor, _event in ready:
                rank = waiting.pop(descriptor)
                poll.unregister(descriptor)
                found[rank] = self.peers[rank - 1].receive()
        return found


class CommandSender:
    """Rank 0's end of the commands: what the other ranks are to do, and whether they have done it.

    Parameters
    ----------
    link : Link
    memory : SharedMemory
        For commands.
    """

    def __init__(self, link: Link, memory: SharedMemory) -> None:
        self._link = link
        self._memory = memory
        self._busy = False

    def send(self, verb: str, words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Have all other ranks do something; the command before must have been waited for.

        Raises
        ------
        RankLost
            One is gone.
        """
        n_bytes = self._memory.write({**words, "verb": verb}, arrays)
        for peer in self._link.peers:
            peer.send(Command(n_bytes))
        self._busy = True

    def wait(self, patience_seconds: float | None = None) -> dict[int, Done]:
        """Return what came of the last command, by rank; nothing if that was asked before.

        Raises
        ------
        RankLost
            A rank is gone, hangs, or does something else.
        """
        if not self._busy:
            return {}
        done = {}
        for rank, frame in self._link.wait_for_all(patience_seconds).items():
            if not isinstance(frame, Done):
                raise RankLost(f"{self._link.peers[rank - 1].describe()} sent {frame}; the ranks are out of step")
            done[rank] = frame
        self._busy = False
        return done
