"""Fifty subscribers, half of which never read: does the worker feel them? Answered by turns within one run."""

import statistics
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psutil
import zmq

from tests.e2e.daemon import Patience, started, wait_for
from tests.faults.exactly_once import folded
from tests.faults.microscope import NO_VISITS, PER_MICROGRAPH, PacedSession


@dataclass
class SubscribersReport:
    """By turns without and with subscribers: seconds a particle, of the processor and by the clock."""

    subscribers: int
    alone: list = field(default_factory=list)
    watched: list = field(default_factory=list)
    read: int = 0

    def ratio(self, which):
        """Return the median over the turns, with subscribers by without; ``which`` is 0 for processor, 1 for clock."""
        return statistics.median(w[which] / a[which] for a, w in zip(self.alone, self.watched, strict=True))


def run_subscribers(folder, *, subscribers=50, turns=4, turn_particles=1000, seed=1):
    """Let a worker fold with and without subscribers by turns; return a `SubscribersReport`.

    What is compared is the time of the processor that a particle costs the worker: on a machine that others use too,
    time by the clock says little. Nothing is visited again in this session: a particle costs what folding it costs.
    """
    report = SubscribersReport(subscribers)
    particles = (2 * turns + 1) * turn_particles
    session = PacedSession(folder, particles, seed=seed, more=NO_VISITS)
    with ExitStack() as stack:
        stack.enter_context(started("ingest", "-c", session.config, log=session.log))
        worker = stack.enter_context(started("worker", "-c", session.config, log=session.log))
        process = psutil.Process(worker.pid)
        _cost(session, process, worker, turn_particles)  # what happens once is over then
        for _ in range(turns):
            report.alone.append(_cost(session, process, worker, turn_particles))
            with _subscribers(session, subscribers, report):
                report.watched.append(_cost(session, process, worker, turn_particles))
    assert report.read > 0
    return report


def _cost(session, process, worker, particles):
    """Deliver so many particles; return seconds a particle until they are folded, of the processor and by the clock."""
    processor, clock = sum(process.cpu_times()[:2]), time.monotonic()
    session.deliver(particles // PER_MICROGRAPH)
    wait_for(lambda: folded(session) >= session.particles_delivered, worker, 300)
    return (sum(process.cpu_times()[:2]) - processor) / particles, (time.monotonic() - clock) / particles


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
