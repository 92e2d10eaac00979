"""Who does not belong: keys nobody knows, keys of another role, no keys, and an operator's own words said again."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import zmq

from streamrecon.transport import control_schema, feed_schema, schema
from streamrecon.transport.handshake import HandshakeWatch
from streamrecon.transport.keys import LOCAL_NAME, OPERATOR_NAME, WORKER_NAME, ClientKeys, client_folder, make_server
from tests.e2e.daemon import child, ended, samples, wait_for
from tests.faults.exactly_once import assert_exactly_once, folded
from tests.faults.microscope import PER_MICROGRAPH, PacedSession
from tests.integration.control_wire import Wire, command

_CURVE = """
[security]
curve_dir = "keys"
"""
# who may come in at each door
_ROLE = {
    "feed": WORKER_NAME,
    "events": LOCAL_NAME,
    "volumes": LOCAL_NAME,
    "snapshots": LOCAL_NAME,
    "control": OPERATOR_NAME,
}
_NAMES = (WORKER_NAME, LOCAL_NAME, OPERATOR_NAME)
_SILENCE_MILLISECONDS = 300
PAUSED = ("streamrecon_control_paused",)


@dataclass
class StrangersReport:
    """Who knocked, and what the daemon counted and logged.

    Attributes
    ----------
    knocked : Counter
        By (door, who).
    counted : Counter
        Connections that the daemon counted as refused, by reason.
    logged : Counter
        Its lines about them, by reason.
    replays, replays_counted : int
        Control messages said again, and what the daemon counted of them.
    particles : int
    """

    knocked: Counter = field(default_factory=Counter)
    counted: Counter = field(default_factory=Counter)
    logged: Counter = field(default_factory=Counter)
    replays: int = 0
    replays_counted: int = 0
    particles: int = 0


def run_strangers(folder, *, rounds=3, seed=1):
    """Let everybody knock at every door of a session with keys who must not come in; return a `StrangersReport`.

    Raises
    ------
    AssertionError
        A byte reached one of them, a command said again was obeyed, or something was not counted or not logged.
    """
    report = StrangersReport()
    session = PacedSession(folder, 12 * PER_MICROGRAPH, seed=seed, more=_CURVE)
    keys = session.folder / "keys"
    make_server(keys)
    with session.run() as daemon:
        session.deliver(4)
        wait_for(lambda: folded(session) >= 4 * PER_MICROGRAPH, daemon)
        for _ in range(rounds):
            for door in _ROLE:
                for who, curve in _strangers(keys, door).items():
                    _knock(session, door, curve, daemon)
                    report.knocked[door, who] += 1
            session.deliver(1)
        operator = _keys(keys, OPERATOR_NAME)
        said = _replay(session, operator, report)
        wait_for(lambda: _replays_counted(session, daemon) == report.replays, daemon)
        report.counted, report.replays_counted = _refused(session, daemon), _replays_counted(session, daemon)
        # the worker that was spoken to is gone: what was said to it is worth nothing to the next
        worker = child(daemon, "worker")
        worker.kill()
        wait_for(lambda: child(daemon, "worker") not in (None, worker), daemon)
        with Wire(session.ports.control, operator) as wire:
            wire.ticket()
            _refused_again(wire, said, report)
        wait_for(lambda: _replays_counted(session, daemon) == 1, daemon)
        report.replays_counted += 1
        assert _figures(session, daemon)[PAUSED] == 0
        session.deliver_all()
        wait_for(lambda: folded(session) >= session.particles, daemon)
        daemon.terminate()
        assert ended(daemon) == 0, session.logged()[-3000:]
    report.logged = _logged(session)
    # a key once a role and process: those that nobody knows at each door, and two of another role at each of three
    assert report.logged["unknown_key"] == len(_ROLE) * rounds + 6, report.logged
    assert report.logged["plaintext"] + report.logged["disconnected"] > 0, report.logged
    assert report.logged["replayed"] > 0, report.logged
    session.finish()
    report.particles, _ = assert_exactly_once(session)
    return report


def _keys(keys, name):
    return ClientKeys.load(client_folder(keys, name))


def _strangers(keys, door):
    """Return the keys, by what they are, with which nobody comes in at a door."""
    known = _keys(keys, WORKER_NAME)
    strangers = {"plaintext": None, "a key nobody knows": ClientKeys(*zmq.curve_keypair(), known.server)}
    return strangers | {f"the {name}'s key": _keys(keys, name) for name in _NAMES if name != _ROLE[door]}


def _knock(session, door, curve, daemon):
    """Say what somebody who belongs there would say, and hear nothing until well after it is counted as refused."""
    before = _refused(session, daemon).total()
    with zmq.Context() as context, context.socket(zmq.SUB if door in ("events", "volumes") else zmq.DEALER) as sock:
        sock.linger = 0
        if curve is not None:
            curve.use(sock)
        watch = HandshakeWatch(sock)
        sock.connect(getattr(session.ports, door))
        if door in ("events", "volumes"):
            sock.subscribe("")
        else:
            with suppress(zmq.Again):  # refused before it has said a word: there is nobody any more to say it to
                sock.send_multipart(_greeting(door), zmq.NOBLOCK)
        # this one, and not another who was slow to go: who leaves before is refused for another reason
        wait_for(watch.failures, daemon)
        watch.close()
        wait_for(lambda: _refused(session, daemon).total() > before, daemon)
        assert not sock.poll(_SILENCE_MILLISECONDS), f"{door} answers a stranger"


def _greeting(door):
    """Return what somebody says first who comes in at a door to speak."""
    hello = {"version": feed_schema.PROTOCOL_VERSION, "worker_id": "stranger", "hostname": "elsewhere", "credits": 4}
    return {
        "feed": feed_schema.encode(feed_schema.Hello(**hello)),
        "snapshots": schema.encode_snapshot_request(schema.TOPICS),
        "control": control_schema.encode(control_schema.Knock(control_schema.PROTOCOL_VERSION)),
    }[door]


def _replay(session, operator, report):
    """Let the operator pause and resume, and say the first again in every way; return what was said."""
    endpoint = session.ports.control
    with Wire(endpoint, operator) as wire:
        pause = command(wire.ticket(), "pause")
        wire.say(pause)
        assert wire.hear().outcome == "done"
        wire.say(command(wire.ticket(), "resume"))
        assert wire.hear().outcome == "done"
        _refused_again(wire, pause, report)
        with Wire(endpoint, operator) as elsewhere:
            _refused_again(elsewhere, pause, report)
            # a ticket that nobody has used yet is good for the connection that asked for it
            _refused_again(elsewhere, command(wire.ticket(), "stop"), report)
    return pause


def _refused_again(wire, frames, report):
    wire.say(frames)
    reply = wire.hear()
    assert isinstance(reply, control_schema.Refusal), reply
    assert reply.kind == "replayed", reply
    report.replays += 1


def _figures(session, daemon):
    """Return the metrics of both processes: one that has no time to answer just now is left out of the page."""
    both = {PAUSED, ("streamrecon_ingest_lag_seconds",)}
    return wait_for(lambda: (found := samples(session.metrics())) and both <= found.keys() and found, daemon)


def _refused(session, daemon):
    """Return the connections that all doors counted as refused, by reason."""
    found = Counter()
    for (name, *labels), value in _figures(session, daemon).items():
        if name.endswith("_peers_refused_total"):
            found[dict(labels)["reason"]] += int(value)
    return found


def _replays_counted(session, daemon):
    return int(_figures(session, daemon).get(("streamrecon_control_messages_refused_total", ("reason", "replayed")), 0))


def _logged(session):
    """Return the lines about who was refused, by reason."""
    lines = [json.loads(line) for line in session.logged().splitlines() if line.startswith("{")]
    return Counter(line["reason"] for line in lines if line.get("message") in ("peer_refused", "control_refused"))
