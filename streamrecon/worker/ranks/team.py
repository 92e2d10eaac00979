"""The processes of the other ranks: started by rank 0, ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from functools import partial

import structlog

from streamrecon.worker.ranks.link import CommandSender, Link, Peer
from streamrecon.worker.ranks.memory import SharedMemory

_END_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class Team:
    """Rank 0's hold on the other ranks.

    Parameters
    ----------
    devices : sequence of int
        One a rank; the first is rank 0's own.
    patience_seconds : float
        How long one may keep the others waiting.

    Attributes
    ----------
    link : Link
    commands : CommandSender
    """

    def __init__(self, devices: tuple[int, ...], patience_seconds: float) -> None:
        size = len(devices)
        self._devices = devices
        self._processes: list[subprocess.Popen[bytes]] = []
        self._memories = [
            (SharedMemory.create(f"rank{rank}a"), SharedMemory.create(f"rank{rank}b")) for rank in range(size)
        ]
        self._orders = SharedMemory.create("orders")
        peers = []
        try:
            for rank in range(1, size):
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                peers.append(Peer(ours, partial(self.describe, rank)))
                with theirs:
                    self._processes.append(self._start(rank, size, theirs))
        except BaseException:
            self._kill()
            raise
        self.link = Link(0, size, peers, self._memories, patience_seconds)
        self.commands = CommandSender(self.link, self._orders)

    def _start(self, rank: int, size: int, connection: socket.socket) -> subprocess.Popen[bytes]:
        memories = [memory.descriptor for pair in self._memories for memory in pair]
        descriptors = [connection.fileno(), self._orders.descriptor, *memories]
        command = [
            *(sys.executable, "-m", "streamrecon.monitor.launch", str(os.getpid())),
            *(sys.executable, "-m", "streamrecon.worker.ranks.follower", str(rank), str(size)),
            *map(str, descriptors),
        ]
        # a session of its own: Ctrl-C in a terminal reaches rank 0 alone, which ends the others in order
        process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, pass_fds=descriptors)
        _log.info("rank started", rank=rank, device=self._devices[rank], pid=process.pid)
        return process

    def describe(self, rank: int) -> str:
        """Return who a rank is, and how it ended if it did."""
        process = self._processes[rank - 1]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)  # its connection closes a moment before it has ended
        ended = ""
        if process.returncode is not None:
            code = process.returncode
            ended = f", killed by {signal.Signals(-code).name}" if code < 0 else f", ended with exit code {code}"
        return f"rank {rank} (device {self._devices[rank]}, process {process.pid}{ended})"

    def gone(self) -> str:
        """Return which rank has ended, "" if all run."""
        ended = [rank for rank, process in enumerate(self._processes, start=1) if process.poll() is not None]
        return self.describe(ended[0]) if ended else ""

    def close(self) -> None:
        """End the others: they go when their connection closes; who does not is killed."""
        for peer in self.link.peers:
            peer.connection.close()
        self._kill(_END_SECONDS)
        for memory in (self._orders, *(memory for pair in self._memories for memory in pair)):
            memory.close()

    def _kill(self, grace_seconds: float = 0.0) -> None:
        for process in self._processes:
            try:
                process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
