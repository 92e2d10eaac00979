"""Peers that stall, send garbage, too much, half a message or another version, on every socket of a running daemon."""

import contextlib
import random
import socket
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field

import psutil
import zmq

from streamrecon.transport import control_schema, feed_schema, schema
from tests.e2e.daemon import ended, page_follows, streamrecon, wait_for
from tests.faults.exactly_once import assert_exactly_once, folded, queued_batches
from tests.faults.microscope import PER_MICROGRAPH, PacedSession

# A greeting of ZMTP 3.0 with the NULL mechanism: https://rfc.zeromq.org/spec/23/
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
_MOST_MEMORY_BYTES = 256 * 2**20
_BACKLOG = 12  # micrographs, of a batch each
_ZMQ_SOCKETS = ("feed", "events", "volumes", "snapshots", "control")
SOCKETS = (*_ZMQ_SOCKETS, "monitor")


@dataclass
class PeersReport:
    """What was thrown at the daemon and what it became of it."""

    seconds: float = 0.0
    attacks: Counter = field(default_factory=Counter)
    dropped: float = 0.0
    memory_growth_bytes: dict = field(default_factory=dict)
    descriptors_before: dict = field(default_factory=dict)
    descriptors_after: dict = field(default_factory=dict)
    particles: int = 0


def run_peers(folder, *, seconds=60.0, seed=1):
    """Attack every socket of a session while it works; return a `PeersReport`.

    Raises
    ------
    AssertionError
        A process ended or grew, kept what its peers had opened, or a particle was lost or counted twice.
    """
    report = PeersReport()
    session = PacedSession(folder, 24 * PER_MICROGRAPH, seed=seed)
    with session.run() as daemon:
        session.deliver(4)
        wait_for(lambda: folded(session) >= 4 * PER_MICROGRAPH, daemon)
        # what a process opens and takes while it starts is not what its peers made it keep
        wait_for(lambda: page_follows(session), daemon)
        before = {p.pid: p for p in (psutil.Process(daemon.pid), *psutil.Process(daemon.pid).children())}
        names = {pid: _name(process) for pid, process in before.items()}
        memory = {pid: p.memory_info().rss for pid, p in before.items()}
        report.descriptors_before = {names[pid]: p.num_fds() for pid, p in before.items()}
        began = time.monotonic()
        with _paused(session, daemon):
            # long enough, in a campaign, that without a bound it would be far above what is allowed
            timer = threading.Timer(seconds / 3, lambda: None)
            timer.start()
            (ingest,) = [process for pid, process in before.items() if names[pid] == "ingest"]
            most = _greedy(_ports(session)["feed"], report.attacks, timer.finished, ingest)
            report.memory_growth_bytes["ingest, before one that does not read"] = most - memory[ingest.pid]
            assert most - memory[ingest.pid] < _MOST_MEMORY_BYTES, f"ingest grew by {most - memory[ingest.pid]} bytes"
        _attack(session, report, seconds, random.Random(seed), daemon)
        report.seconds = time.monotonic() - began
        session.deliver_all()
        wait_for(lambda: folded(session) >= session.particles, daemon)
        assert {p.pid for p in psutil.Process(daemon.pid).children()} | {daemon.pid} == before.keys(), (
            "one had to restart"
        )
        for pid, process in before.items():
            grown = process.memory_info().rss - memory[pid]
            report.memory_growth_bytes[names[pid]] = grown
            assert grown < _MOST_MEMORY_BYTES, f"{names[pid]} grew by {grown} bytes"
            allowed = report.descriptors_before[names[pid]] + 8
            wait_for(lambda process=process, allowed=allowed: process.num_fds() <= allowed, daemon)
            report.descriptors_after[names[pid]] = process.num_fds()
        page = wait_for(lambda: (p := session.metrics()) and "streamrecon_ingest_" in p and p, daemon)
        report.dropped = sum(
            float(line.rsplit(" ", 1)[1])
            for line in page.splitlines()
            if line.startswith("streamrecon_ingest_messages_dropped_total{")
        )
        assert report.dropped > 0
        daemon.terminate()
        assert ended(daemon) == 0, session.logged()[-3000:]
    session.finish()  # the last acknowledgements, which a stop leaves to the next start
    report.particles, _ = assert_exactly_once(session)
    return report


def _name(process):
    words = process.cmdline()
    return next((verb for verb in ("ingest", "worker", "page", "run") if verb in words), " ".join(words))


def _ports(session):
    ports = {name: urllib.parse.urlsplit(getattr(session.ports, name)).port for name in _ZMQ_SOCKETS}
    return ports | {"monitor": int(session.ports.monitor.rsplit(":", 1)[1])}


@contextlib.contextmanager
def _paused(session, daemon):
    """Have the worker take nothing, so that batches wait for whoever asks for them."""
    said = streamrecon("ctl", "-c", session.config, "pause")
    assert said.returncode == 0, said.stderr
    session.deliver(_BACKLOG)
    wait_for(lambda: queued_batches(session) >= _BACKLOG // 2, daemon)
    yield
    said = streamrecon("ctl", "-c", session.config, "resume")
    assert said.returncode == 0, said.stderr


def _attack(session, report, seconds, choose, daemon):
    ports = _ports(session)
    stop = threading.Event()
    threads = [
        threading.Thread(target=_raw, args=(name, port, random.Random(choose.random()), report.attacks, stop))
        for name, port in ports.items()
    ]
    threads += [
        threading.Thread(target=_zmq, args=(name, ports[name], random.Random(choose.random()), report.attacks, stop))
        for name in _ZMQ_SOCKETS
    ]
    threads.append(threading.Thread(target=_greedy, args=(ports["feed"], report.attacks, stop)))
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + seconds
        # on a machine that stood still meanwhile not everybody has had a turn
        while time.monotonic() < end or {attack.split(":")[0] for attack in report.attacks} != set(SOCKETS):
            session.deliver(1)
            assert daemon.poll() is None, session.logged()[-3000:]
            time.sleep(min(2.0, seconds / 10))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _raw(name, port, choose, attacks, stop):
    """Talk to a socket without ZeroMQ, or HTTP, below it."""
    with contextlib.ExitStack() as stalled:
        while not stop.is_set():
            kind = choose.choice(
                ("stall", "garbage", "half greeting", "greeting, then garbage", "half frame", "hang up")
            )
            with contextlib.suppress(OSError):
                sock = socket.create_connection(("127.0.0.1", port), timeout=2)
                sock.settimeout(0.2)
                if name == "monitor":
                    sock.sendall(_http(kind, choose))
                else:
                    sock.sendall(_zmtp(kind, choose))
                attacks[f"{name}: {kind}"] += 1
                if kind == "stall" and choose.random() < 0.3:
                    stalled.callback(sock.close)  # stays as it is until the end
                else:
                    with contextlib.suppress(OSError):
                        sock.recv(4096)
                    sock.close()
            stop.wait(0.02)


def _zmtp(kind, choose):
    return {
        "stall": b"",
        "hang up": b"\xff",
        "garbage": choose.randbytes(choose.choice((1, 64, 5000))),
        "half greeting": _GREETING[: choose.randrange(1, 63)],
        "greeting, then garbage": _GREETING + choose.randbytes(200),
        # a ready command, then a message that says it has a terabyte
        "half frame": _GREETING + _READY + b"\x02" + (2**40).to_bytes(8, "big") + b"x",
    }[kind]  # fmt: skip


def _http(kind, choose):
    return {
        "stall": b"",
        "hang up": b"GET",
        "garbage": choose.randbytes(5000),
        "half greeting": b"GET /metrics HTTP/1.1\r\nHost: ",
        "greeting, then garbage": b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + bytes(1000),
        "half frame": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + b"x: y\r\n" * 200,
    }[kind]


def _zmq(name, port, choose, attacks, stop):
    """Speak ZeroMQ, but say what nobody should."""
    kinds = {
        "feed": _feed_messages,
        "snapshots": _snapshot_messages,
        "control": _control_messages,
        "events": _subscriptions,
        "volumes": _subscriptions,
    }
    with zmq.Context() as context:
        while not stop.is_set():
            kind, message = choose.choice(kinds[name](choose))
            way = zmq.XSUB if name in ("events", "volumes") else zmq.DEALER
            with context.socket(way) as sock:
                sock.set(zmq.LINGER, 0)
                sock.set(zmq.SNDTIMEO, 500)
                sock.connect(f"tcp://127.0.0.1:{port}")
                with contextlib.suppress(zmq.ZMQError):
                    if kind == "half message":
                        sock.send(message[0], zmq.SNDMORE)
                    else:
                        sock.send_multipart(message)
                attacks[f"{name}: {kind}"] += 1
                stop.wait(0.05)


def _greedy(port, attacks, stop, ingest=None):
    """Be a worker by all that it says, ask for everything, again and again, and read nothing; return ingest's memory.

    Each Hello puts back what the one before was lent, and has it sent anew: nothing but what ingest allows bounds it.
    """
    hello = {"version": feed_schema.PROTOCOL_VERSION, "worker_id": "greedy", "hostname": "elsewhere"}
    with zmq.Context() as context:
        with context.socket(zmq.DEALER) as sock:
            sock.set(zmq.LINGER, 0)
            sock.set(zmq.RCVHWM, 1)
            sock.set(zmq.RCVBUF, 4096)
            sock.connect(f"tcp://127.0.0.1:{port}")
            while not stop.wait(0.02):
                for message in (feed_schema.Hello(**hello, credits=10_000), feed_schema.Credit(10_000)):
                    with contextlib.suppress(zmq.Again):
                        sock.send_multipart(feed_schema.encode(message), zmq.NOBLOCK)
                attacks["feed: asks for everything and does not read"] += 1
            most = 0 if ingest is None else ingest.memory_info().rss
        # what it was lent last goes back at once, and not only with its lease
        with context.socket(zmq.DEALER) as sock:
            sock.connect(f"tcp://127.0.0.1:{port}")
            sock.send_multipart(feed_schema.encode(feed_schema.Hello(**hello, credits=0)))
            assert sock.poll(60_000), "ingest does not answer"
            sock.send_multipart(feed_schema.encode(feed_schema.Bye()))
    return most


def _feed_messages(choose):
    s = feed_schema
    version = s.PROTOCOL_VERSION
    hello = {"version": version, "worker_id": "stranger", "hostname": "elsewhere", "credits": 0}
    return [
        ("garbage", [choose.randbytes(100)]),
        ("garbage", [b"[" * 5000]),
        ("nested without end", [b'{"x":' + b"[" * 5000]),
        ("oversized", [bytes(8 * 2**20)]),
        ("oversized", [b"{}"] * 500),
        ("old version", s.encode(s.Hello(**(hello | {"version": 0})))),
        ("half message", [b"{"]),
        ("overlapping ranges", [b'{"type":"hello","version":%d,"worker_id":"x","hostname":"h","credits":1,' % version
                                + b'"folded":[' + b",".join([b"[1,9000000000000000000]"] * 1000) + b"]}"]),
        ("credits for nothing", s.encode(s.Credit(10_000))),
        ("acknowledges what it does not have", s.encode(s.Ack([1, 2, 3]))),
        ("unknown session", s.encode(s.Hello(**hello, session="another"))),
        ("integers beyond SQLite", [b'{"type":"ack","batch_ids":[18446744073709551615]}']),
    ]  # fmt: skip


def _snapshot_messages(choose):
    return [
        ("garbage", [choose.randbytes(100)]),
        ("oversized", [bytes(2**20)]),
        ("old version", [schema.SNAPSHOT_REQUEST, b'{"protocol_version":0}']),
        ("half message", [schema.SNAPSHOT_REQUEST]),
        ("asks and does not read", schema.encode_snapshot_request()),
    ]


def _control_messages(choose):
    s, token = control_schema, "0" * 32
    stop = s.Command(version=s.PROTOCOL_VERSION, ticket=token, request=token, verb="stop")
    return [
        ("garbage", [choose.randbytes(100)]),
        ("oversized", [bytes(2**20)]),
        ("old version", s.encode(s.Knock(0))),
        ("half message", [b"{"]),
        ("nested without end", [b'{"version":' + b"[" * 5000]),
        ("command without a ticket", s.encode(stop)),
        ("knocks and does not read", s.encode(s.Knock(s.PROTOCOL_VERSION))),
    ]


def _subscriptions(choose):
    return [
        ("garbage", [choose.randbytes(100)]),
        ("oversized", [b"\1" + bytes(70_000)]),
        ("subscribes and does not read", [b"\1"]),
        ("half message", [b"\1"]),
        ("unsubscribes from nothing", [b"\0volume/"]),
    ]
