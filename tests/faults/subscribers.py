"""Fifty subscribers, half of which never read: does the worker feel them? Answered by turns within one run."""

import statistics
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import zmq

from tests.e2e.daemon import Patience, child, samples, wait_for
from tests.faults.microscope import NO_VISITS, PacedSession

_STACK = 100
# a turn with subscribers is held against the two beside it; beyond this it is no matter of noise
_MOST_TIMES = 1.25
_TURNS_THAT_SAY_SOMETHING = 4


@dataclass
class SubscribersReport:
    """By turns without and with subscribers: seconds a particle, of the processor and by the clock.

    Attributes
    ----------
    alone, watched : list of (float, float)
        One turn more without than with.
    read : int
        Messages that those who read were sent.
    """

    subscribers: int
    alone: list = field(default_factory=list)
    watched: list = field(default_factory=list)
    read: int = 0

    def ratios(self, which):
        """Return each turn with subscribers by its neighbours' mean; ``which`` is 0 for processor, 1 for clock."""
        return [
            2 * w[which] / (a[which] + b[which]) for (a, b), w in zip(pairwise(self.alone), self.watched, strict=True)
        ]

    def noise(self, which):
        """Return each turn without subscribers by the mean of its neighbours, which are without them, too."""
        times = [a[which] for a in self.alone]
        return [2 * b / (a + c) for a, b, c in zip(times, times[1:], times[2:], strict=False)]


def run_subscribers(folder, *, subscribers=50, turns=7, turn_particles=3000, warm_up_particles=6000, seed=1):
    """Let a worker fold with and without subscribers by turns; return a `SubscribersReport`.

    Nothing is visited again in this session, and the turns begin once the search has settled: a particle costs what
    folding it costs.

    Raises
    ------
    AssertionError
        Half of the turns cost the worker a quarter more of the processor, or of the clock.
    """
    report = SubscribersReport(subscribers)
    session = PacedSession(
        folder, warm_up_particles + (2 * turns + 1) * turn_particles, seed=seed, more=NO_VISITS, per_micrograph=_STACK
    )
    # no page: it subscribes, too
    session.config.write_text(session.config.read_text().replace("[monitor]", "[monitor]\npage = false"))
    with session.run() as daemon:
        # what happens once is over then
        worker = wait_for(lambda: child(daemon, "worker"), daemon)
        _cost(session, worker, daemon, warm_up_particles)
        report.alone.append(_cost(session, worker, daemon, turn_particles))
        for _ in range(turns):
            with _subscribers(session, subscribers, report):
                report.watched.append(_cost(session, worker, daemon, turn_particles))
            report.alone.append(_cost(session, worker, daemon, turn_particles))
    assert report.read > 0
    if turns >= _TURNS_THAT_SAY_SOMETHING:
        for which in (0, 1):
            assert statistics.median(report.ratios(which)) <= _MOST_TIMES, (report.alone, report.watched)
    return report


def _cost(session, worker, daemon, particles):
    """Deliver so many particles; return seconds a particle until they are folded, of the processor and by the clock."""
    processor, clock = sum(worker.cpu_times()[:2]), time.monotonic()
    session.deliver(particles // session.per_micrograph)
    seen = ("streamrecon_worker_particles_seen",)
    wait_for(lambda: samples(session.metrics()).get(seen, 0) >= session.particles_delivered, daemon, 600)
    return (sum(worker.cpu_times()[:2]) - processor) / particles, (time.monotonic() - clock) / particles


@contextmanager
def _subscribers(session, number, report):
    """Connect so many; every second one reads all that comes, the others nothing at all."""
    stop = threading.Event()
    with zmq.Context() as context, ExitStack() as stack:
        readers = zmq.Poller()
        for index in range(number):
            for endpoint in (session.ports.events, session.ports.volumes):
                sock = stack.enter_context(context.socket(zmq.SUB))
                sock.set(zmq.LINGER, 0)
                if index % 2:
                    sock.set(zmq.RCVHWM, 1)
                    sock.set(zmq.RCVBUF, 4096)
                else:
                    readers.register(sock, zmq.POLLIN)
                sock.subscribe(b"")
                sock.connect(endpoint)

        def read():
            while not stop.is_set():
                for sock, _ in readers.poll(100):
                    sock.recv_multipart()
                    report.read += 1

        thread = threading.Thread(target=read)
        thread.start()
        patience, before = Patience(120), report.read
        try:
            while report.read == before:  # a heartbeat greets whoever has come
                assert patience.lasts()
                time.sleep(0.01)
            yield
        finally:
            stop.set()
            thread.join()
