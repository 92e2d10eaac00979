"""``python -m streamrecon.worker.ranks.follower RANK SIZE DESCRIPTORS...``: a rank other than 0; rank 0 starts it.

It does as rank 0 says and ends when rank 0 does. It opens no socket, no file of the session, and keeps nothing.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from numpy.typing import NDArray

from streamrecon.config.model import Config
from streamrecon.errors import DeviceError, RankLost, StreamReconError
from streamrecon.monitor.logs import configure_logging
from streamrecon.reconstruct.engine import Engine
from streamrecon.worker.engine import make_backend
from streamrecon.worker.ranks.collective import RankCollective, nccl_address
from streamrecon.worker.ranks.link import Command, Done, Link, Peer
from streamrecon.worker.ranks.memory import SharedMemory
from streamrecon.worker.ranks.shared_engine import engine_of_rank
from streamrecon.worker.ranks.wire import batch_from_wire, kept_from_wire, state_from_wire

_TEXT_LENGTH = 1000

_log = structlog.get_logger(__name__)


class Follower:
    """A rank that does as it is told.

    Parameters
    ----------
    link : Link
    orders : SharedMemory
        Where rank 0 writes what is to be done.
    configured : callable
        Called with the configuration as soon as it is known.
    """

    def __init__(self, link: Link, orders: SharedMemory, configured: Callable[[Config], None]) -> None:
        self._link = link
        self._orders = orders
        self._configured = configured
        self._engine: Engine | None = None
        self._collective: RankCollective | None = None

    def serve(self) -> None:
        """Obey until rank 0 goes.

        Raises
        ------
        RankLost
            The ranks are out of step.
        """
        leader = self._link.peers[0]
        while True:
            try:
                frame = leader.receive()
            except RankLost:
                return
            if not isinstance(frame, Command):
                raise RankLost(f"rank 0 sent {frame} where a command was expected; the ranks are out of step")
            words, arrays = self._orders.read(frame.n_bytes)
            try:
                done = Done(facts=self._obey(words.pop("verb"), words, arrays))
            except RankLost:
                raise
            except StreamReconError as error:
                done = Done(error.kind, str(error)[:_TEXT_LENGTH])
            with contextlib.suppress(RankLost):  # gone meanwhile: the next turn ends it
                leader.send(done)

    def _obey(self, verb: str, words: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        if verb == "start":
            return self._start(words)
        engine, collective = self._engine, self._collective
        if engine is None or collective is None:
            raise RankLost(f"rank 0 asked to {verb} before the start; the ranks are out of step")
        if verb == "nccl":
            collective.use_nccl(words["identity"])
        elif verb == "fold":
            engine.fold(batch_from_wire(words, arrays))
        elif verb == "revisit":
            kept = {name.removeprefix("kept."): array for name, array in arrays.items() if name != "search"}
            engine.revisit(kept_from_wire(kept), arrays["search"])
        elif verb == "snapshot":
            engine.snapshot()
        elif verb == "state":
            engine.state()
        elif verb == "restore":
            engine.restore(state_from_wire(words, arrays))
        else:
            raise RankLost(f"rank 0 asked for {verb!r}, which is unknown here; the ranks are out of step")
        return {}

    def _start(self, words: dict[str, Any]) -> dict[str, str]:
        config = Config.model_validate_json(words["config"])
        self._configured(config)
        backend = make_backend(config, self._link.rank, words["backend"])
        if backend.name != words["backend"]:
            raise DeviceError(f"expected a {words['backend']} backend as on rank 0, found {backend.name}")
        self._collective = RankCollective(self._link, backend)
        box_size, pixel_size_angstrom = words["sampling"]
        self._engine = engine_of_rank(config, box_size, pixel_size_angstrom, backend, self._collective)
        return {"nccl_address": nccl_address(backend)}


def main(arguments: list[str]) -> int:
    """Be a rank; return the exit code."""
    rank, size, connection, orders, *memories = map(int, arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shared = [SharedMemory(descriptor) for descriptor in memories]
    pairs = list(zip(shared[::2], shared[1::2], strict=True))

    def log_as_rank(config: Config) -> None:
        configure_logging(config.log, f"worker, rank {rank}")

    leader = Peer(socket.socket(fileno=connection), lambda: "rank 0")
    with leader.connection:
        link = Link(rank, size, [leader], pairs, patience_seconds=float("inf"))
        try:
            Follower(link, SharedMemory(orders), log_as_rank).serve()
        except RankLost as error:
            with contextlib.suppress(OSError):
                _log.error("rank ends", reason=str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
